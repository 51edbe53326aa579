"""Where what a container writes to its root filesystem is kept, on real runsc."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.builds import RunscBuild
from tests.real.helpers_rig import Rig, machine_with

pytestmark = pytest.mark.timeout(120)

# What it writes before a save, and proves to have afterwards.
WRITES = "dd if=/dev/urandom of=/kept bs=1M count=4 2>/dev/null; md5sum </kept >/sum; "
FILESTORE = ".gvisor.filestore*"


@pytest.fixture(scope="module")
def other(runsc: RunscBuild) -> Iterator[Rig]:
    """Give a second machine: its sidecar is started again with the flags of each case."""
    with machine_with(runsc) as rig:
        yield rig


def rootfs(folder: Path) -> Path:
    """Make a root filesystem of few links, so that it can be looked through."""
    for name in ("bin", "lib", "lib64", "usr", "dev", "proc", "tmp", "etc"):
        path = folder / name
        path.mkdir(parents=True, exist_ok=True)
    return folder


def writer(rig: Rig, name: str) -> Path:
    """Start a container with a writable root filesystem of its own, and have it write to it."""
    bundle = rig.bundle(name, ("/bin/sh", "-c", WRITES + "exec sleep 1000"))
    own = rootfs(bundle / "rootfs")
    with rig.edited(bundle) as spec:
        spec["root"] = {"path": str(own), "readonly": False}
        there = {mount["destination"] for mount in spec["mounts"]}
        spec["mounts"] += [
            {"destination": f"/{part}", "type": "bind", "source": f"/{part}", "options": ["ro"]}
            for part in ("bin", "lib", "lib64", "usr")
            if f"/{part}" not in there and Path(f"/{part}").exists()
        ]
    rig.client.create(name, str(bundle))
    rig.client.start(name)
    return own


def has_written(rig: Rig, name: str) -> str:
    """Check that a container has the whole of what it wrote; return its digest."""
    script = 'until [ -s /sum ]; do sleep 0.1; done; [ "$(md5sum </kept)" = "$(cat /sum)" ]'
    ran = rig.guest.exec(name, ("/bin/sh", "-c", script + "&& cat /sum"))
    assert ran.status == 0, ran
    return ran.out


def test_nothing_of_runsc_is_in_the_root_filesystem(rig: Rig) -> None:
    """A container's file for its writes is not where clients read its root filesystem."""
    own = writer(rig, "job")
    digest = has_written(rig, "job")

    assert list(own.glob(FILESTORE)) == []
    assert not (own / "kept").exists()
    image = rig.checkpoint("job").image_path
    rig.end("job")
    rig.restore("job", image)

    assert has_written(rig, "job") == digest
    assert list(own.glob(FILESTORE)) == []
    assert list((rig.sim.folder / "scratch").iterdir()) == []  # runsc unlinks its file at once


@pytest.mark.parametrize("medium", ("root:self", "root:memory", "none"))
def test_an_image_of_another_medium_is_restored(other: Rig, medium: str) -> None:
    """What was saved with any medium comes back where the operator sets none, again and again."""
    other.sim.stop_sidecar()
    other.sim.start_sidecar(runsc__flags={"overlay2": medium})
    own = writer(other, "job")
    digest = has_written(other, "job")
    assert len(list(own.glob(FILESTORE))) == (medium == "root:self")
    first = other.checkpoint("job").image_path
    other.end("job")
    other.sim.stop_sidecar()
    other.start_sidecar()

    other.restore("once", first)
    second = other.checkpoint("once").image_path
    other.restore("twice", second)

    assert has_written(other, "once") == has_written(other, "twice") == digest
    assert list(own.glob(FILESTORE)) == []
    kind = other.client.inspect(second)["runsc_flags"]["overlay2"].partition("=")[0]
    assert kind == ("root:dir" if medium == "root:self" else medium)
    for name in ("once", "twice"):
        other.end(name)
