"""Commands on the path of an image, on a machine without a sidecar."""

from __future__ import annotations

import json
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from shim.entry.cli import exits
from shim.entry.cli.app import main
from shim.image import keys
from tests.unit.image_helpers import FILES, sealed
from tests.unit.test_oci_host_requests import HARMLESS

Cryo = Callable[..., tuple[int, str, str]]


@pytest.fixture
def cryo(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> Cryo:
    """Run the command line, with an address at which nothing answers."""

    def run(*argv: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as caught:
            main(["-a", f"unix://{tmp_path}/none.sock", "--output", "json", *argv])
        out, err = capfd.readouterr()
        assert isinstance(caught.value.code, int)
        return caught.value.code, out, err

    return run


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """Give a sealed image."""
    sealed(tmp_path / "image", spec=HARMLESS, bundle="/b")
    return tmp_path / "image"


def answer(cryo: Cryo, *argv: str) -> Any:
    """Return the JSON that a command prints."""
    code, out, err = cryo(*argv)
    assert code == 0, err
    return json.loads(out)


def test_an_image_is_looked_at_by_its_path(cryo: Cryo, image: Path) -> None:
    """Its manifest, its files, and whether it is intact; what needs runsc is not claimed."""
    assert answer(cryo, "checkpoints", "inspect", str(image))["task"] == "t1"
    files = answer(cryo, "checkpoints", "ls", str(image))
    verified = answer(cryo, "checkpoints", "verify", str(image))

    assert {one["name"]: one["size_bytes"] for one in files} == {
        name: len(data) for name, data in FILES.items()
    }
    assert (verified["task"], verified["host_checked"], verified["signed_by"]) == ("t1", False, [])


def test_damage_is_found_without_a_sidecar(cryo: Cryo, image: Path) -> None:
    """By the same check, with the same exit code."""
    (image / "pages.img").write_bytes(b"\x08" * len(FILES["pages.img"]))

    code, _, err = cryo("checkpoints", "verify", str(image))

    assert (
        code == exits.CODES[next(kind for kind in exits.CODES if kind.__name__ == "ImageCorrupt")]
    )
    assert "pages.img was changed" in err


def test_a_name_needs_the_sidecar(cryo: Cryo) -> None:
    """Which has the store."""
    for argv in (("inspect", "llama:warm"), ("diff", "/i", "llama:warm"), ("ls",)):
        code, _, err = cryo("checkpoints", *argv)
        assert (code, "no sidecar answers" in err) == (11, True)


def test_keys_are_made_and_used(cryo: Cryo, image: Path, tmp_path: Path) -> None:
    """A signed image verifies with the key, and with no other one."""
    made = answer(cryo, "checkpoints", "keygen", str(tmp_path / "key"))
    answer(cryo, "checkpoints", "keygen", str(tmp_path / "other"))
    unsigned = cryo("checkpoints", "verify", "--key", f"{tmp_path}/key.pub", str(image))
    signed = answer(cryo, "checkpoints", "sign", "--key", str(tmp_path / "key"), str(image))
    key = ("--key", f"{tmp_path}/key.pub")
    verified = answer(cryo, "checkpoints", "verify", *key, str(image))
    wrong = cryo("checkpoints", "verify", "--key", f"{tmp_path}/other.pub", str(image))

    assert unsigned[0] == wrong[0] == 10
    assert f"is not signed by {tmp_path}/other.pub" in wrong[2]
    assert (signed["key"], signed["signatures"]) == (made["id"], 1)
    assert verified["signed_by"] == [{"key": f"{tmp_path}/key.pub", "id": made["id"]}]
    assert keys.read_public(tmp_path / "key.pub").id == made["id"]


def test_no_private_key_is_printed(cryo: Cryo, image: Path, tmp_path: Path) -> None:
    """Neither its text nor that of a file that was given in its place."""
    cryo("checkpoints", "keygen", str(tmp_path / "key"))
    secret = (tmp_path / "key").read_text().splitlines()[1]
    (tmp_path / "broken").write_text(f"-----BEGIN PRIVATE KEY-----\n{secret[:20]}\n")
    (tmp_path / "broken").chmod(0o600)

    for name in ("key", "broken"):
        _, out, err = cryo("checkpoints", "sign", "--key", str(tmp_path / name), str(image))
        assert secret[:20] not in out + err


def test_two_images_are_compared_by_their_paths(cryo: Cryo, image: Path, tmp_path: Path) -> None:
    """Fields, specs, names of the environment, files and equal content."""
    process = {**HARMLESS["process"], "env": ["PATH=/secret-value", "NEW=1"]}
    mounts = [*HARMLESS["mounts"], {"destination": "/data", "type": "bind", "source": "/x"}]
    sealed(
        tmp_path / "other",
        spec={**HARMLESS, "process": process, "mounts": mounts, "hostname": "g"},
        bundle="/b",
        engine="builtin",
    )

    found = answer(cryo, "checkpoints", "diff", str(image), str(tmp_path / "other"))
    same = answer(cryo, "checkpoints", "diff", str(image), str(image))

    total = sum(map(len, FILES.values()))
    assert found["manifest"] == [{"field": "engine", "old": "phased", "new": "builtin"}]
    (container,) = found["containers"]
    assert {one["field"]: (one["old"], one["new"]) for one in container["spec"]} == {
        "hostname": ("h", "g"),
        "mounts[/data].type": ("", "bind"),
        "mounts[/data].source": ("", "/x"),
    }
    assert (container["added"], container["removed"], container["changed"]) == (
        ["NEW"],
        ["NVIDIA_VISIBLE_DEVICES"],
        ["PATH"],
    )
    assert "secret-value" not in json.dumps(found)
    assert (found["files"], found["shared_bytes"], found["new_bytes"]) == ([], total, total)
    assert (same["manifest"], same["containers"], same["files"]) == ([], [], [])


def test_equal_content_is_counted_by_chunks(cryo: Cryo, tmp_path: Path) -> None:
    """Zeros do not count, and what moved within a file does."""
    # With other content there may be no common cut in so little of it.
    content = random.Random(1)
    data = [content.randbytes(12 << 20), content.randbytes(12 << 20)]
    for name, parts in (("one", data), ("two", [b"\0" * (1 << 20), *reversed(data)])):
        (tmp_path / name).mkdir()
        (tmp_path / name / "extra.img").write_bytes(b"".join(parts))
        sealed(tmp_path / name)

    found = answer(cryo, "checkpoints", "diff", str(tmp_path / "one"), str(tmp_path / "two"))

    (file,) = found["files"]
    assert (file["name"], file["old_bytes"], file["new_bytes"]) == (
        "extra.img",
        24 << 20,
        25 << 20,
    )
    assert 0 < file["shared_bytes"] < 24 << 20
    small = sum(map(len, FILES.values()))
    assert (found["old_bytes"], found["new_bytes"]) == (small + (24 << 20), small + (24 << 20))


def test_another_user_can_look_at_an_image_of_his(cryo: Cryo, image: Path, tmp_path: Path) -> None:
    """What belongs to somebody else is refused, unless that is accepted."""
    os.chown(image, 65534, 65534)

    refused = cryo("checkpoints", "verify", str(image))
    taken = answer(cryo, "checkpoints", "verify", "--untrusted-folder", str(image))

    assert (refused[0], taken["task"]) == (10, "t1")
    shutil.rmtree(image)
