"""Reading config.json."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shim.errors import InvalidBundle
from shim.oci import canonical, document, untrusted_json


def minimal(**more: Any) -> dict[str, Any]:
    """Make the smallest spec that is accepted."""
    return {
        "ociVersion": "1.1.0",
        "process": {"args": ["/bin/true"], "cwd": "/"},
        "root": {"path": "rootfs"},
        **more,
    }


def write(bundle: Path, text: str) -> Path:
    """Put a config.json into a bundle."""
    (bundle / "config.json").write_text(text, "utf-8")
    return bundle


def test_a_spec_is_read_with_its_parts(tmp_path: Path) -> None:
    """Every accessor gives what the file says, and a relative root is the bundle's."""
    data = minimal(
        hostname="h",
        annotations={"a": "b"},
        mounts=[{"destination": "/proc", "type": "proc", "source": "proc"}],
        linux={"devices": [{"path": "/dev/nvidiactl", "type": "c", "major": 195, "minor": 255}]},
    )
    data["process"] |= {"env": ["A=1", "A=2"], "terminal": True}
    data["root"]["readonly"] = True

    spec = document.load(write(tmp_path, json.dumps(data)))

    assert spec.args == ("/bin/true",)
    assert spec.env == ("A=1", "A=2")
    assert spec.variable("A") == "2"
    assert spec.variable("B") is None
    assert spec.terminal
    assert spec.readonly
    assert spec.annotations == {"a": "b"}
    assert spec.mounts[0].destination == "/proc"
    assert spec.devices[0].minor == 255
    assert spec.has_nvidia_devices
    assert spec.rootfs == tmp_path / "rootfs"


def test_an_absolute_root_stays(tmp_path: Path) -> None:
    """An absolute root.path is not moved into the bundle."""
    spec = document.parse(minimal(root={"path": "/srv/r"}), tmp_path)

    assert spec.rootfs == Path("/srv/r")


def test_null_parts_are_absent_parts(tmp_path: Path) -> None:
    """Go writers leave nulls, and those mean nothing."""
    data = minimal(linux=None, mounts=None, annotations=None)
    data["process"]["env"] = None

    spec = document.parse(data, tmp_path)

    assert (spec.env, spec.mounts, spec.devices, spec.annotations) == ((), (), (), {})


@pytest.mark.parametrize(
    ("text", "said"),
    (
        ("", "not JSON"),
        ("{", "not JSON"),
        ("[]", "not a JSON object"),
        ("nul", "not JSON"),
        ('{"ociVersion": NaN}', "not JSON"),
        ("[" * 100_000, "not JSON"),
        ('{"x": 1e999}', "config.json"),
        ("1" * 5000, "not JSON"),
        (json.dumps(minimal(ociVersion="")), "no ociVersion"),
        (json.dumps(minimal(root=None)), "no root.path"),
        (json.dumps(minimal(root={"path": ""})), "no root.path"),
        (json.dumps(minimal(process={"args": []})), "no process.args"),
        (json.dumps(minimal(process=None)), "no process.args"),
        (json.dumps(minimal(process={"args": [1]})), r"process\.args"),
        (json.dumps(minimal(annotations={"a": 1})), "annotations"),
        (json.dumps(minimal(mounts={})), "mounts"),
        (json.dumps(minimal(linux={"devices": [{"type": "c"}]})), "path"),
    ),
)
def test_a_broken_spec_is_refused(tmp_path: Path, text: str, said: str) -> None:
    """Whatever is wrong is named, with a remedy, as an InvalidBundle."""
    with pytest.raises(InvalidBundle, match=said) as caught:
        document.load(write(tmp_path, text))

    assert caught.value.remedy


def test_bytes_that_are_no_text_are_refused(tmp_path: Path) -> None:
    """A config.json that is not UTF-8 is no JSON."""
    (tmp_path / "config.json").write_bytes(b'{"a": "\xff"}')

    with pytest.raises(InvalidBundle, match="not JSON"):
        document.load(tmp_path)


def test_a_missing_or_odd_config_is_refused(tmp_path: Path) -> None:
    """Absent, a folder, a fifo or too large: refused at once, without waiting."""
    with pytest.raises(InvalidBundle, match=r"config\.json"):
        document.load(tmp_path)
    os.mkfifo(tmp_path / "config.json")
    with pytest.raises(InvalidBundle, match="regular"):
        document.load(tmp_path)
    (tmp_path / "config.json").unlink()
    with (tmp_path / "config.json").open("wb") as file:
        file.truncate(document.MAX_SPEC_BYTES + 1)
    with pytest.raises(InvalidBundle, match="larger"):
        document.load(tmp_path)


def test_a_relative_bundle_is_refused() -> None:
    """A bundle is named by its absolute path, as in containerd."""
    with pytest.raises(InvalidBundle, match="absolute"):
        document.load(Path("bundle"))


def test_a_spec_to_restore_needs_no_command(tmp_path: Path) -> None:
    """The restored process has its command line already."""
    spec = document.parse(minimal(process={}), tmp_path, restoring=True)

    assert spec.args == ()


def test_the_digest_does_not_depend_on_order(tmp_path: Path) -> None:
    """Equal specs have equal digests, different ones do not."""
    data = minimal()
    turned = dict(reversed(data.items()))

    assert document.digest(document.parse(data, tmp_path)) == document.digest(
        document.parse(turned, tmp_path)
    )
    assert document.digest(document.parse(minimal(x=1), tmp_path)) != document.digest(
        document.parse(data, tmp_path)
    )


def test_writing_keeps_unknown_keys_and_the_mode(tmp_path: Path) -> None:
    """What we do not know is not lost, and who could read the file still can."""
    write(tmp_path, json.dumps(minimal(novel={"x": [1.5, "é"]})))
    (tmp_path / "config.json").chmod(0o640)

    document.write(document.load(tmp_path))

    assert document.load(tmp_path).data == minimal(novel={"x": [1.5, "é"]})
    assert stat.S_IMODE((tmp_path / "config.json").stat().st_mode) == 0o640


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@given(JSON)
def test_both_forms_give_the_same_value_back(value: Any) -> None:
    """Encoding loses nothing, and encoding again gives the same bytes."""
    for form in (canonical.encode, canonical.encode_pretty):
        data = form(value)

        assert untrusted_json.decode(data) == value
        assert form(untrusted_json.decode(data)) == data


@pytest.mark.parametrize("text", ('"\\ud800"', '{"\\uDFFF": 1}', '["\\udc00\\ud800"]'))
def test_half_of_a_pair_is_no_text(text: str) -> None:
    """What no other program could read again is refused where it comes in."""
    with pytest.raises(ValueError, match="surrogates"):
        untrusted_json.decode(text.encode())


def test_a_whole_pair_is_text() -> None:
    """A character beyond the first plane may be written as its two halves."""
    assert untrusted_json.decode(b'"\\ud83d\\ude00"') == "\U0001f600"


@pytest.mark.parametrize("text", ("/a\0b", "\0", "a\\\0"))
def test_a_nul_is_refused_wherever_it_stands(tmp_path: Path, text: str) -> None:
    """No path, argument or variable can have a NUL, so a spec that has one is refused by name."""
    for part in ({"env": [f"PATH={text}"]}, {"args": [text]}, {"cwd": text}):
        data = minimal(process={"args": ["x"], **part})

        with pytest.raises(InvalidBundle, match="NUL"):
            document.parse(data, tmp_path)


def test_the_letters_of_an_escape_are_no_nul(tmp_path: Path) -> None:
    """A backslash and the letters u0000 are text as any other."""
    spec = document.parse(minimal(process={"args": ["\\u0000"]}), tmp_path)

    assert spec.data["process"]["args"] == ["\\u0000"]


@pytest.mark.parametrize("depth", (990, 100_000))
def test_a_deep_file_is_refused(tmp_path: Path, depth: int) -> None:
    """A config.json that is nested deeply is refused by name, before it meets a recursion limit."""
    (tmp_path / "config.json").write_text('{"x": ' + "[" * depth + "]" * depth + "}", "ascii")

    with pytest.raises(InvalidBundle, match=r"config\.json.*nested too deep"):
        document.load(tmp_path)
