"""Checkpoints by way of a stage in memory: the image is copied to the disk after the thaw."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from hack.bench import dirty
from shim.errors import InvalidArgument, ResourceExhausted
from shim.host.memory_promises import MemoryPromise, promise
from shim.host.page_cache import cached_bytes
from shim.model import CheckpointOptions, Stage, Verify
from shim.simgpu import tools
from shim.transaction.stage_choice import PROMISES
from tests import cgroups
from tests.builds import RunscBuild
from tests.real.helpers_rig import Output, Rig, at_once, machine_with, refused
from tests.real.test_pods import Pod

pytestmark = pytest.mark.timeout(180)

_MIB = 1 << 20
_TERA = 1 << 40
# Has as much memory as it is asked for, with bytes that runsc cannot leave out.
_GUEST = """
import os, signal, sys
memory = os.urandom(int(sys.argv[1]) << 20)
print("ready", flush=True)
while True:
    signal.pause()
"""


def test_image_from_memory_is_the_same(rig: Rig, engine: str) -> None:
    """It is verified in full and restored, and the original runs on; so does a second one."""
    rig.workload("job", processes=2)

    made = rig.checkpoint("job", engine, stage=Stage.MEMORY)
    again = rig.checkpoint("job", engine, stage=Stage.MEMORY)

    assert (made.stage, made.stage_reason, made.warnings) == ("memory", "as requested", ())
    assert 0 < made.frozen_s <= sum(made.timings_s.values())
    assert rig.client.verify(made.image_path, Verify.FULL)["digest"] == made.digest
    rig.restore("copy", made.image_path)
    rig.restore("other", again.image_path)
    assert rig.fine("job")
    assert rig.fine("copy")
    assert rig.fine("other")
    manifest = json.loads((Path(made.image_path) / "cryo.json").read_text("utf-8"))
    assert (manifest["stage"], manifest["frozen_s"]) == ("memory", made.frozen_s)


def test_image_without_digests(rig: Rig) -> None:
    """Without a seal it is copied all the same; with --exit the task ends after that."""
    rig.workload("job")

    made = rig.checkpoint("job", stage=Stage.MEMORY, seal=False, exit=True)

    assert made.stage == "memory"
    rig.client.delete("job")
    rig.restore("job", made.image_path)
    assert rig.fine("job")


@contextlib.contextmanager
def _locked_settings(kind: int) -> Iterator[None]:
    """Keep the tests of other processes from changing the kernel's limits, or from seeing it."""
    fd = os.open("/proc/sys/vm", os.O_RDONLY)
    try:
        fcntl.flock(fd, kind)
        yield
    finally:
        os.close(fd)


@pytest.fixture
def usual_disk() -> Iterator[None]:
    """Leave the limit of dirty pages as it is."""
    with _locked_settings(fcntl.LOCK_SH):
        yield


@pytest.mark.usefixtures("usual_disk")
def test_small_image_is_saved_to_the_disk(rig: Rig) -> None:
    """By default the page cache has room for all of it."""
    rig.workload("job")

    made = rig.checkpoint("job")

    assert made.stage == "disk"
    assert "page cache takes all of it" in made.stage_reason
    assert rig.checkpoint("job", stage=Stage.DISK).stage_reason == "as requested"


def test_paused_task(rig: Rig) -> None:
    """It is paused again before its image is copied, and fine."""
    rig.workload("job")
    rig.client.pause("job")

    made = rig.checkpoint("job", stage=Stage.MEMORY)

    rig.client.resume("job")
    rig.restore("copy", made.image_path)
    assert rig.fine("copy")
    assert rig.fine("job")


def test_pod(rig: Rig) -> None:
    """All containers of a pod are in the image."""
    pod = Pod(rig)
    pod.begin()

    made = rig.checkpoint(pod.sandbox, stage=Stage.MEMORY)

    assert made.stage == "memory"
    assert pod.fine
    pod.remove()
    rig.restore(pod.sandbox, made.image_path)
    assert pod.fine
    pod.remove()


def test_two_at_once(rig: Rig) -> None:
    """Two checkpoints at the same time have a stage each."""
    for name in ("one", "two"):
        rig.workload(name)

    first, second = at_once(
        lambda: rig.checkpoint("one", stage=Stage.MEMORY),
        lambda: rig.checkpoint("two", stage=Stage.MEMORY),
    )

    assert (first.stage, second.stage) == ("memory", "memory")
    rig.restore("copy", first.image_path)
    rig.restore("other", second.image_path)
    assert rig.fine("copy")
    assert rig.fine("other")


def test_promised_memory_is_not_taken(rig: Rig) -> None:
    """What another checkpoint is about to take is not free, though nothing is in it yet."""
    rig.workload("job")
    file = rig.sim.folder / "state" / PROMISES
    other = promise(file, _TERA, _TERA)
    assert isinstance(other, MemoryPromise)
    try:
        error = refused(ResourceExhausted, lambda: rig.checkpoint("job", stage=Stage.MEMORY))
    finally:
        other.close()

    assert "other checkpoints leave" in error.message
    assert rig.checkpoint("job", stage=Stage.MEMORY).stage == "memory"
    assert rig.fine("job")


def test_memory_and_direct_exclude_each_other(rig: Rig) -> None:
    """What is written past the page cache is not saved into memory."""
    rig.workload("job")

    refused(InvalidArgument, lambda: rig.checkpoint("job", stage=Stage.MEMORY, direct=True))

    assert rig.fine("job")


@pytest.fixture(scope="module")
def limited(runsc: RunscBuild) -> Iterator[Rig]:
    """Give a machine whose runsc puts each sandbox into the cgroup that its spec names."""
    with machine_with(runsc, runsc__flags={"ignore-cgroups": "false"}) as rig:
        yield rig
        rig.clear()


def _guest(rig: Rig, name: str, mib: int, limit_mib: int) -> None:
    output = Output(rig, name)
    bundle = rig.bundle(name, [tools.interpreter(), "-ISBc", _GUEST, str(mib)])
    with rig.edited(bundle) as spec:
        limits = {"memory": {"limit": limit_mib * _MIB}}
        path = f"/{rig.sim.folder.name}-{name}"
        spec["linux"] |= {"cgroupsPath": path, "resources": limits}
    rig.client.create(name, str(bundle), stdio=output.stdio)
    rig.client.start(name)
    output.until("ready")


def test_memory_limit_of_the_sandbox(limited: Rig) -> None:
    """The pages of a stage count for the sandbox, so one that its limit cannot hold is not made."""
    _guest(limited, "job", 96, 200)
    memory = CheckpointOptions(stage=Stage.MEMORY)
    error = refused(ResourceExhausted, lambda: limited.client.checkpoint("job", memory))

    assert "memory limit of the sandbox leaves" in error.message
    assert limited.checkpoint("job").stage == "disk"

    _guest(limited, "large", 96, 600)
    made = limited.checkpoint("large", stage=Stage.MEMORY)
    assert made.stage == "memory"
    assert made.size_bytes > 96 * _MIB
    assert cgroups.starting(f"{limited.sim.folder.name}-large")
    for name in ("job", "large"):
        limited.end(name)


@pytest.fixture
def slow_disk() -> Iterator[None]:
    """Let the kernel take 16 MiB of dirty pages; put back what it was."""
    with _locked_settings(fcntl.LOCK_EX), dirty.limited(16 * _MIB):
        yield


@pytest.mark.usefixtures("slow_disk")
def test_memory_is_chosen_where_the_disk_would_be_waited_for(rig: Rig) -> None:
    """Beyond the limit of dirty pages a save waits for the disk; the copy is written past them."""
    rig.workload("job", gpu=False, resident_mib=64)

    made = rig.checkpoint("job")

    assert made.stage == "memory"
    assert "without a wait for the disk" in made.stage_reason
    with (Path(made.image_path) / "pages.img").open("rb") as file:
        size_bytes, cached = os.fstat(file.fileno()).st_size, cached_bytes(file.fileno())
    assert size_bytes > 64 * _MIB
    if cached is not None:
        assert cached < _MIB
    assert rig.client.verify(made.image_path, Verify.FULL)["digest"] == made.digest
    rig.restore("copy", made.image_path)
    assert rig.fine("copy")
    assert rig.checkpoint("job", exit=True).stage == "disk"
