"""The runtime in containerd's config.toml: added, found and removed again, in texts."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shim.errors import AlreadyExists, CryoError, FailedPrecondition, InvalidArgument
from shim.install import containerd
from shim.install.containerd import MARK
from shim.install.runtime import Runtime

FILE = Path("/etc/containerd/config.toml")
CONFIGS = Path(__file__).parents[1] / "configs"
V2, V3 = "io.containerd.grpc.v1.cri", "io.containerd.cri.v1.runtime"
RUNTIMES = (Runtime(), Runtime("/opt/cryo/containerd-shim-cryo-v1", '/etc/"cryo".toml'))
TEXTS: dict[str, str | None] = {
    "missing": None,
    "empty": "",
    "white space": " \n\n",
    "no newline": "version = 2",
    "comments": "# nothing yet\n",
    "comments without newline": "\n# nothing yet",
    "CRLF": 'version = 3\r\n\r\n[plugins."io.containerd.cri.v1.runtime"]\r\n  x = 1\r\n',
    "dotted": 'version = 3\nplugins."io.containerd.cri.v1.runtime".containerd.runtimes.a.b = 1\n',
    **{
        name: (CONFIGS / f"{name}.toml").read_bytes().decode()
        for name in (
            *("containerd-1.7", "containerd-2.1", "containerd-2.4", "kubeadm", "nvidia"),
            *("comments", "k3s"),
        )
    },
}


def runtimes(text: str | None, plugin: str) -> dict[str, Any]:
    """Return the runtimes of a text."""
    section = tomllib.loads(text or "").get("plugins", {}).get(plugin, {}).get("containerd", {})
    return dict(section.get("runtimes", {}))


@pytest.mark.parametrize("runtime", RUNTIMES, ids=("plain", "with paths"))
@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_a_removal_undoes_an_addition(text: str | None, runtime: Runtime) -> None:
    """The text is byte for byte what it was, and in between it differs by the runtime only."""
    added = containerd.added(text, runtime, FILE)

    assert containerd.added(added, runtime, FILE) == added
    plugin = V2 if tomllib.loads(added)["version"] == 2 else V3
    before, after = runtimes(text, plugin), runtimes(added, plugin)
    assert after.pop("cryo") == runtime.keys()
    if plugin == V2 and not before:
        assert after.pop("runc") == {"runtime_type": "io.containerd.runc.v2"}
    assert after == before
    assert added.startswith((text or "").rstrip("\r\n"))
    assert containerd.removed(added, FILE) == text
    assert containerd.removed(text, FILE) == text


COMMENTS = st.lists(
    st.sampled_from(("", "  ", "# a", "\t# [b]", "#", '# """', "x = 1", '"y" = """', '"""', "[t]"))
)


@given(COMMENTS, st.sampled_from(("\n", "\r\n")), st.booleans(), st.sampled_from((2, 3)))
def test_any_lines_stay(lines: list[str], newline: str, ended: bool, version: int) -> None:
    """An addition and a removal leave every valid text as it was."""
    text = newline.join((f"version = {version}", *lines)) + (newline if ended else "")
    try:
        tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        return

    added = containerd.added(text, Runtime(), FILE)

    assert "cryo" in runtimes(added, V2 if version == 2 else V3)
    assert containerd.removed(added, FILE) == text


def test_what_was_changed_since_stays() -> None:
    """Lines that were added before, in front of the next table and after it, are kept."""
    added = containerd.added("version = 3\n", Runtime(), FILE)
    changed = f"# mine\n{added}\n# Of the next table.\n[metrics]\n  address = ''\n# end"

    removed = containerd.removed(changed, FILE)

    assert removed == (
        "# mine\nversion = 3\n\n# Of the next table.\n[metrics]\n  address = ''\n# end"
    )


def test_options_that_were_added_go_too() -> None:
    """A table below that of the runtime is removed with it, wherever it is."""
    added = containerd.added("version = 3\n", Runtime(), FILE)
    options = f'[plugins."{V3}".containerd.runtimes.cryo.options]\n  ConfigPath = "/x"\n'

    removed = containerd.removed(f"{added}[metrics]\n\n{options}# end\n", FILE)

    assert removed == "version = 3\n[metrics]\n# end\n"


def test_the_default_runtime_of_1_x_stays_for_others() -> None:
    """Of the two tables for containerd 1.x, runc's stays if another runtime was added since."""
    added = containerd.added(None, Runtime(), FILE)
    kata = f'\n[plugins."{V2}".containerd.runtimes.kata]\n  runtime_type = "k"\n'

    removed = containerd.removed(f"{added}{kata}", FILE)

    assert sorted(runtimes(removed, V2)) == ["kata", "runc"]
    assert tomllib.loads(removed or "")["version"] == 2


def test_a_table_that_another_tool_has_written_again_is_found() -> None:
    """Without the line above it, and in the middle, the runtime is found and removed."""
    added = containerd.added(TEXTS["containerd-2.1"], Runtime(), FILE)
    moved = added.replace(MARK, "") + "\n[last]\n  key = 1\n"

    assert containerd.added(moved, Runtime(), FILE) == moved
    assert containerd.removed(moved, FILE) == f"{TEXTS['containerd-2.1']}\n[last]\n  key = 1\n"


@pytest.mark.parametrize(
    ("text", "error", "said"),
    (
        ("version = 2\n[", InvalidArgument, "not valid TOML"),
        ("root = '/x'\n", FailedPrecondition, "version 1"),
        ("version = 1\n", FailedPrecondition, "version 1"),
        (
            f'version = 3\n[plugins."{V3}".containerd.runtimes.cryo]\nruntime_type = "other"\n',
            AlreadyExists,
            "other values of container_annotations, pod_annotations, runtime_type",
        ),
        (
            f"version = 3\n[plugins.'{V3}'.containerd]\nruntimes = {{runc = {{a = 1}}}}\n",
            FailedPrecondition,
            "cannot be extended",
        ),
    ),
    ids=("broken", "no version", "version 1", "conflict", "inline"),
)
def test_what_cannot_be_extended_is_refused(text: str, error: type[CryoError], said: str) -> None:
    """Each is an error with a remedy."""
    with pytest.raises(error, match=said) as raised:
        containerd.added(text, Runtime(), FILE)

    assert raised.value.remedy


def test_an_inline_table_is_not_removed() -> None:
    """The runtime in an inline table is an error, not half a removal."""
    text = f"[plugins.'{V3}'.containerd]\nruntimes = {{cryo = {{runtime_type = 'x'}}}}\n"

    with pytest.raises(FailedPrecondition, match="not a table of its own"):
        containerd.removed(text, FILE)


def test_more_keys_are_the_users() -> None:
    """A runtime with all that is needed and more is not added again."""
    text = containerd.added("version = 3\n", Runtime(), FILE) + '  cni_conf_dir = "/c"\n'

    assert containerd.added(text, Runtime(), FILE) == text


def test_the_drop_in() -> None:
    """A drop-in is for containerd 2.x only, and goes unless something else was written into it."""
    imports = 'imports = ["relative/*.toml", "/etc/conf.d/*.toml"]\n'
    assert containerd.drop_in_folder(f"version = 3\n{imports}", FILE) == Path("/etc/conf.d")
    assert containerd.drop_in_folder(f"version = 2\n{imports}", FILE) is None

    text = containerd.drop_in(4, Runtime())

    assert runtimes(text, V3) == {"cryo": Runtime().keys()}
    assert containerd.without_drop_in(text, FILE) is None
    assert containerd.without_drop_in(f"{text}# mine\n", FILE) == "version = 4\n# mine\n"
