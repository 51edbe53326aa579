"""Which flags of runsc an image depends on: as measured on both builds."""

from __future__ import annotations

from pathlib import Path

import pytest

from shim.oci import document
from shim.oci.document import Spec
from shim.runsc.settings import mismatches, of_sandbox, recorded


def spec(*, readonly: bool = False, options: tuple[str, ...] = ("rbind", "rw")) -> Spec:
    """Give a container with one bind mount."""
    mount = {"destination": "/v", "type": "bind", "source": "/v", "options": list(options)}
    data = {
        "ociVersion": "1.1.0",
        "process": {"args": ["x"]},
        "root": {"path": "/r", "readonly": readonly},
        "mounts": [{"destination": "/tmp", "type": "tmpfs"}, mount],
    }
    return document.parse(data, Path("/b"))


def fits(flag: str, saved: str, given: str, *specs: Spec) -> bool:
    """Return whether what was saved with one value restores with another."""
    found = mismatches(recorded({flag: saved}), {flag: given}, specs or (spec(),))
    assert [one.flag for one in found] in ([], [flag])
    assert all(one.why and one.remedy for one in found)
    return not found


MEMORY = ("root:memory", "all:memory", "none", "root:memory,size=1g")
ROOT = ("root:self", "root:dir=/a", "root:dir=/b", "root:self,size=1g")
ALL = ("all:self", "all:dir=/a")


@pytest.mark.parametrize("saved", (*MEMORY, *ROOT, *ALL))
@pytest.mark.parametrize("given", (*MEMORY, *ROOT, *ALL))
def test_overlays_fit_where_the_same_files_are_on_disk(saved: str, given: str) -> None:
    """The medium counts, memory or disk, and of which mounts; folder and size do not."""
    same = any(saved in kind and given in kind for kind in (MEMORY, ROOT, ALL))

    assert fits("overlay2", saved, given) == same


def test_what_cannot_be_written_has_no_overlay() -> None:
    """A read-only root filesystem or mount makes no difference, as it has no file on disk."""
    assert fits("overlay2", "root:memory", "root:self", spec(readonly=True))
    assert fits("overlay2", "root:self", "all:self", spec(options=("rbind", "ro")))
    assert not fits("overlay2", "root:memory", "root:self", spec(readonly=True), spec())


@pytest.mark.parametrize(
    ("flag", "saved", "given", "expected"),
    (
        ("network", "none", "sandbox", True),
        ("network", "sandbox", "host", False),
        ("network", "host", "none", False),
        ("directfs", "true", "false", False),
        ("directfs", "false", "true", False),
        ("directfs", "true", "1", True),
        ("file-access", "shared", "exclusive", True),
        ("host-uds", "all", "none", True),
        ("platform", "systrap", "ptrace", False),
        ("platform", "ptrace", "systrap", True),
    ),
)
def test_other_flags(flag: str, saved: str, given: str, expected: bool) -> None:
    """Only what was seen to fail, or to end the restored program, is refused."""
    assert fits(flag, saved, given) == expected


def test_a_flag_that_is_not_set_has_its_default() -> None:
    """Setting a default explicitly changes nothing; an image without a record fits everything."""
    assert mismatches(recorded({}), {"overlay2": "root:self", "directfs": "true"}, (spec(),)) == ()
    assert mismatches({}, {"overlay2": "root:memory", "network": "host"}, (spec(),)) == ()
    (one,) = mismatches(recorded({}), {"overlay2": "root:memory"}, (spec(),))
    assert (one.saved, one.given) == ("root:self", "root:memory")


def test_a_folder_of_one_task_is_in_no_remedy() -> None:
    """An overlay in a folder is put right with any folder."""
    saved = recorded({"overlay2": "root:dir=/run/x/tasks/ns/a"})
    (one,) = mismatches(saved, {"overlay2": "root:memory"}, (spec(),))

    assert "/run/x" not in one.remedy
    assert "root:dir=" in one.remedy


def test_the_flags_of_a_sandbox() -> None:
    """They stand before the subcommand; what is not there has its default."""
    words = ("runsc-sandbox", "--root=/r", "--directfs=false", "--log-fd=3", "boot", "--id=x", "+")

    found = of_sandbox(words)

    assert found == {"root": "/r", "directfs": "false", "log-fd": "3"}
    assert recorded(found)["directfs"] == "false"
    assert recorded(found)["overlay2"] == "root:self"
    assert of_sandbox(("sleep", "1000")) is None
    assert of_sandbox(()) is None
