"""Checkpoints by way of a stage in memory, with a real tmpfs and without a sandbox."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from shim.errors import CryoError, CudaError, ResourceExhausted
from shim.image import memory_stage
from shim.image.verify import verify
from shim.image.verify_cache import VerifyCache
from shim.model import CudaState, EngineName, Stage, Verify
from shim.transaction import stage_choice
from tests.unit.fakes_guest import Cuda, FakeGuest, Fault, failed
from tests.unit.fakes_target import Scene, sleeping

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root")

RUNNING, FROZEN = CudaState.RUNNING, CudaState.CHECKPOINTED
FULL = ResourceExhausted("runsc checkpoint: no space left on device")
NO = failed("out of memory")
Make = Callable[..., Scene]


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Make]:
    """Return a factory of scenes with two CUDA processes; no descriptor may be left."""
    with sleeping() as process:

        def scene(**more: Any) -> Scene:
            return Scene(tmp_path, process, FakeGuest([Cuda(7, "a"), Cuda(8, "b")]), **more)

        yield scene
    assert _stages() == []


def _stages() -> list[str]:
    """List the descriptors of this process that are a tmpfs without a mount point."""
    mounted = {Path(point).stat().st_dev for point in ("/dev/shm", "/") if Path(point).exists()}
    found = []
    for fd in Path("/proc/self/fd").iterdir():
        if fd.exists() and fd.is_dir() and str(fd.readlink()) == "/":
            found += [str(fd)] if fd.stat().st_dev not in mounted else []
    return found


def _whole(scene: Scene, path: str) -> bool:
    cache = VerifyCache(scene.folder / "other-cache")
    verify(Path(path), Verify.FULL, cache, lambda _: None)
    return True


def _fill(path: Path) -> None:
    """Fill a stage as runsc does before it fails."""
    with contextlib.suppress(OSError), (path / "pages.img").open("wb", buffering=0) as file:
        while file.write(b"x" * (1 << 20)):
            pass


@pytest.mark.parametrize("engine", (EngineName.PHASED, EngineName.BUILTIN))
async def test_image_is_copied_after_the_thaw(make: Make, engine: EngineName) -> None:
    """The save is into the stage; when the copy begins every process runs."""
    scene = make()
    states: list[list[CudaState | None]] = []
    scene.at_phase("seal", lambda: states.append(list(scene.guest.states)))

    made = await scene.checkpoint(engine=engine, stage=Stage.MEMORY)

    [args] = scene.runsc.saves
    assert args.image_path.startswith(f"/proc/{os.getpid()}/fd/")
    assert states == [[RUNNING, RUNNING]]
    assert made.stage == "memory"
    assert made.frozen_s > 0
    assert _whole(scene, made.image_path)
    assert scene.on_disk() is None


async def test_journal_has_the_device_of_the_stage(make: Make) -> None:
    """The next owner waits until the sandbox has closed its files."""
    scene = make()
    seen: list[int] = []

    def look() -> None:
        entry = scene.on_disk()
        assert entry is not None
        seen.append(entry.stage_device)

    scene.at_phase("save", look)
    await scene.checkpoint(stage=Stage.MEMORY)

    assert seen[0] > 0


@pytest.mark.parametrize("engine", (EngineName.PHASED, EngineName.BUILTIN))
async def test_full_stage_is_left_for_the_disk(
    make: Make, engine: EngineName, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same checkpoint saves again, from processes in the state in which runsc expects them."""
    monkeypatch.setattr(stage_choice, "SLACK_BYTES", 0)
    scene = make()
    scene.runsc.fails["checkpoint"] = FULL

    states: list[list[CudaState | None]] = []

    def fail() -> None:
        _fill(Path(scene.runsc.saves[-1].image_path))
        scene.at_phase("save", lambda: states.append(list(scene.guest.states)))
        del scene.runsc.fails["checkpoint"]

    scene.runsc.failing = fail
    made = await scene.checkpoint(engine=engine, stage=Stage.MEMORY)

    expected = FROZEN if engine is EngineName.PHASED else RUNNING
    assert states == [[expected, expected]]
    assert [save.image_path.startswith("/proc") for save in scene.runsc.saves] == [True, False]
    assert made.stage == "disk"
    assert "took more memory" in made.stage_reason
    assert _whole(scene, made.image_path)
    assert scene.guest.states == [RUNNING, RUNNING]


async def test_another_failure_is_not_tried_again(make: Make) -> None:
    """A save that fails with room in the stage is rolled back."""
    scene = make()
    scene.runsc.fails["checkpoint"] = FULL

    assert await scene.error(stage=Stage.MEMORY) is FULL

    assert len(scene.runsc.saves) == 1
    assert scene.as_before()


async def test_disk_fills_up_during_the_copy(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """No image, and the task runs already."""
    scene = make()

    def full(*_: Any) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "pwrite", full)
    error = await scene.error(stage=Stage.MEMORY)

    assert isinstance(error, ResourceExhausted)
    assert scene.as_before()


async def test_cancelled_before_the_copy(make: Make) -> None:
    """Nothing is copied, and the task runs already."""
    scene = make()
    work = asyncio.ensure_future(scene.checkpoint(stage=Stage.MEMORY))
    scene.at_phase("seal", work.cancel)

    with pytest.raises(asyncio.CancelledError):
        await work
    assert scene.as_before()


async def test_process_that_does_not_come_back(make: Make) -> None:
    """The image is completed from the stage, which is kept whole until then."""
    scene = make()
    scene.guest.faults["restore", 8] = Fault(answer=NO, times=99)

    error = await scene.error(engine=EngineName.PHASED, stage=Stage.MEMORY)

    assert "is complete" in error.message
    (manifest,) = scene.images.rglob("cryo.json")
    assert _whole(scene, str(manifest.parent))


async def test_only_copy_is_kept_when_the_disk_is_full(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stage with the only copy of a process stays whole, and the error says where it is."""
    scene = make()
    scene.guest.faults["restore", 8] = Fault(answer=NO, times=99)
    stages: list[memory_stage.MemoryStage] = []
    plain = memory_stage.MemoryStage.__init__

    def keep(self: memory_stage.MemoryStage, *given: Any) -> None:
        plain(self, *given)
        stages.append(self)

    def full(*_: Any) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def exhaust() -> None:
        monkeypatch.setattr(os, "fsync", full)  # all of it was copied by then

    monkeypatch.setattr(memory_stage.MemoryStage, "__init__", keep)
    scene.at_phase("seal", exhaust)
    error = await scene.error(engine=EngineName.PHASED, stage=Stage.MEMORY, exit=True)

    assert isinstance(error, CudaError)
    [stage] = stages
    assert str(stage.path) in error.remedy
    assert (stage.path / "pages.img").read_bytes() == b"pages" * 1000
    stage.close()


async def test_memory_does_not_suffice(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """A request that cannot hold is refused before anything is frozen."""
    room = stage_choice.Room(page_cache_bytes=0, host_bytes=0, cgroup_bytes=None, in_memory=False)
    monkeypatch.setattr(stage_choice, "measure", lambda *_: room)
    scene = make()

    error = await scene.error(stage=Stage.MEMORY)

    assert isinstance(error, ResourceExhausted)
    assert scene.runsc.saves == []
    assert not any("lock" in call for call in map(str, scene.guest.calls))
    assert scene.as_before()
    assert (await scene.checkpoint()).stage == "disk"


async def test_sandbox_that_dies_during_the_copy(make: Make) -> None:
    """What was saved is a complete image."""
    scene = make()
    scene.at_phase("seal", scene.sandbox.kill)

    try:
        made = await scene.checkpoint(stage=Stage.MEMORY)
    except CryoError:
        assert scene.image_folders == []
    else:
        assert _whole(scene, made.image_path)
