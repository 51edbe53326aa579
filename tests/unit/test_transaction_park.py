"""A pause that gives GPU memory back: all of it or nothing, and the way back."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Unpack

import pytest

from shim.config import Timeouts
from shim.errors import (
    CryoError,
    CudaError,
    DeadlineExceeded,
    InvalidArgument,
    Refused,
    ResourceExhausted,
    RunscError,
)
from shim.model import CudaState
from shim.transaction.journal import Changes
from shim.transaction.park import Parking
from tests.unit.fakes_guest import Fault, failed
from tests.unit.fakes_target import Make, Scene, in_states, parking

RUNNING, LOCKED, FROZEN = CudaState.RUNNING, CudaState.LOCKED, CudaState.CHECKPOINTED
BROKEN = RunscError("pause", 128, "broken")


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Make]:
    """Return a factory of tasks whose CUDA processes are in these states."""
    with in_states(tmp_path) as made:
        yield made


async def parked(scene: Scene) -> Parking:
    """Park a task, and forget who has done it."""
    await parking(scene).park()
    scene.journal.load()
    return parking(scene)


async def error_of(work: Any) -> CryoError:
    """Do what must fail, and give its error."""
    with pytest.raises(CryoError) as caught:
        await work
    return caught.value


def is_parked(scene: Scene) -> bool:
    """Whether every process is frozen, the sandbox paused, and the next owner will know."""
    found = scene.on_disk()
    return (
        set(scene.guest.states) == {FROZEN}
        and scene.guest.paused
        and found is not None
        and found.committed
        and scene.journal.parked
    )


async def test_there_and_back(make: Make) -> None:
    """All are frozen before the pause; the way back is the same one by another owner."""
    scene = make(RUNNING, RUNNING)

    await parking(scene).park()

    assert is_parked(scene)
    assert scene.events == ["pause"]
    scene.journal.load()
    await parking(scene).unpark()

    assert scene.as_before()
    assert scene.events == ["pause", "resume"]
    assert not scene.journal.parked


async def test_a_task_without_cuda_processes_is_just_paused(make: Make) -> None:
    """Nothing is done inside but the look."""
    scene = make()

    await parking(scene).park()

    assert scene.guest.paused
    assert scene.guest.verbs() == []
    await parking(scene).unpark()
    assert scene.as_before()


@pytest.mark.parametrize("verb", ("lock", "checkpoint"))
async def test_a_freeze_that_fails_is_undone(make: Make, verb: str) -> None:
    """The task runs as before, and the error has the reason."""
    scene = make(RUNNING, RUNNING)
    scene.guest.faults[verb, 8] = Fault(answer=failed("OS call failed"))

    error = await error_of(parking(scene).park())

    assert "8" in error.message
    assert scene.as_before()


async def test_a_pause_that_fails_is_undone(make: Make) -> None:
    """What was frozen for it runs again."""
    scene = make(RUNNING, RUNNING)
    scene.runsc.fails["pause"] = BROKEN

    assert await error_of(parking(scene).park()) is BROKEN
    assert scene.as_before()


async def test_a_note_that_fails_is_undone(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """A park that the next owner would not know of is none."""
    scene = make(RUNNING)
    plain, full = scene.journal.note, InvalidArgument("no space left")

    def note(**changes: Unpack[Changes]) -> None:
        if changes.get("committed"):
            raise full
        plain(**changes)

    monkeypatch.setattr(scene.journal, "note", note)

    assert await error_of(parking(scene).park()) is full
    assert scene.as_before()


async def test_a_caller_who_leaves_a_park(make: Make) -> None:
    """What was under way is undone before the call ends."""
    scene = make(RUNNING, RUNNING)
    scene.guest.faults["checkpoint", 8] = Fault(hang=True)
    work = asyncio.create_task(parking(scene).park())
    await asyncio.wait_for(scene.guest.hanging.wait(), 60)

    work.cancel()

    with pytest.raises(asyncio.CancelledError):
        await work
    assert scene.as_before()


async def test_a_rollback_that_fails_leaves_the_journal(make: Make) -> None:
    """Both failures are reported, and the next owner tries again."""
    scene = make(RUNNING, RUNNING)
    scene.runsc.fails["pause"] = BROKEN
    scene.guest.faults["restore", 8] = Fault(answer=failed("lost"))

    error = await error_of(parking(scene).park())

    assert isinstance(error, CudaError)
    assert "broken" in error.message
    assert "rollback failed" in error.message
    assert not scene.journal.parked
    scene.journal.load()
    await parking(scene).recover()
    assert scene.as_before()


async def test_no_gpu_memory_to_go_on_with(make: Make) -> None:
    """The task stays parked, whole, and goes on once there is some."""
    scene = make(RUNNING, RUNNING)
    there = await parked(scene)
    scene.guest.faults["restore", 8] = Fault(answer=failed("out of memory"))

    error = await error_of(there.unpark())

    assert isinstance(error, ResourceExhausted)
    assert is_parked(scene)
    await parking(scene).unpark()
    assert scene.as_before()


def smi(scene: Scene, *, held: int, free: int) -> None:
    """Let nvidia-smi report so many MiB held by the sandbox, and free."""
    path = scene.folder / "smi"
    path.write_text(
        "#!/bin/sh\ncase $1 in\n"
        f"*apps*) echo '{scene.sandbox.pid}, A, {held}' ;;\n*) echo 'A, {free}' ;;\nesac\n"
    )
    path.chmod(0o755)
    scene.nvidia_smi = str(path)


async def test_too_little_gpu_memory_is_seen_beforehand(make: Make) -> None:
    """No process is touched, for the driver gives up one that has to go without."""
    scene = make(RUNNING, RUNNING)
    smi(scene, held=100, free=0)
    await parking(scene).park()
    scene.journal.load()
    smi(scene, held=0, free=99)

    error = await error_of(parking(scene).unpark())

    assert isinstance(error, ResourceExhausted)
    assert "99 MiB free" in error.message
    assert "restore" not in scene.guest.verbs()
    assert is_parked(scene)
    smi(scene, held=0, free=100)
    await parking(scene).unpark()
    assert scene.as_before()


async def test_a_recovery_waits_for_gpu_memory(make: Make) -> None:
    """An interrupted park is undone when there is room; what is still held counts."""
    scene = make(RUNNING, RUNNING)
    smi(scene, held=100, free=0)
    await parking(scene).park()
    scene.journal.note(committed=False)
    scene.journal.load()
    scene.guest.processes[1].state = RUNNING
    smi(scene, held=50, free=49)

    error = await error_of(parking(scene).recover())

    assert isinstance(error, ResourceExhausted)
    assert scene.guest.state(7) is FROZEN
    smi(scene, held=50, free=50)
    await parking(scene).recover()
    assert scene.as_before()


async def test_no_host_memory_to_park_in(make: Make) -> None:
    """What does not fit is not moved."""
    scene = make(RUNNING)
    smi(scene, held=1 << 40, free=0)

    error = await error_of(parking(scene).park())

    assert isinstance(error, ResourceExhausted)
    assert scene.guest.verbs() == []
    assert scene.as_before()


async def test_a_process_that_comes_back_no_more(make: Make) -> None:
    """Where it can be neither thawed nor frozen, the journal stays open for the next try."""
    scene = make(RUNNING, RUNNING)
    there = await parked(scene)
    scene.guest.faults["unlock", 8] = Fault(answer=failed("lost"))
    scene.guest.faults["checkpoint", 8] = Fault(answer=failed("lost too"))

    error = await error_of(there.unpark())

    assert isinstance(error, CudaError)
    assert "could not be parked again" in error.message
    assert not scene.journal.parked
    scene.journal.load()
    await parking(scene).recover()
    assert scene.as_before()


async def test_a_caller_who_leaves_the_way_back(make: Make) -> None:
    """It is gone to its end, and the caller gets an error: half a task is worse than none."""
    scene = make(RUNNING, RUNNING)
    there = await parked(scene)
    reached, resume_sandbox = asyncio.Event(), asyncio.Event()
    plain = scene.runsc.resume

    async def resume(task_id: str) -> None:
        reached.set()
        await resume_sandbox.wait()
        await plain(task_id)

    scene.runsc.resume = resume  # type: ignore[method-assign]
    work = asyncio.create_task(there.unpark())
    await asyncio.wait_for(reached.wait(), 60)
    work.cancel()
    resume_sandbox.set()

    await work
    assert scene.as_before()


@pytest.mark.parametrize(
    ("states", "paused"),
    (
        ((RUNNING, RUNNING), False),
        ((LOCKED, FROZEN), False),
        ((FROZEN, FROZEN), True),
        ((LOCKED, RUNNING), False),
    ),
)
async def test_an_owner_that_died_meanwhile(
    make: Make, states: tuple[CudaState, ...], paused: bool
) -> None:
    """Wherever it was, there or back, the next owner lets the task run."""
    scene = make(RUNNING, RUNNING)
    await parking(scene).park()
    scene.journal.note(committed=False)
    for process, state in zip(scene.guest.processes, states, strict=True):
        process.state = state
    scene.guest.paused = paused
    scene.journal.load()

    await parking(scene).recover()

    assert scene.as_before()


async def test_without_cuda_checkpoint(make: Make) -> None:
    """The refusal says what can be done."""
    scene = make(RUNNING)
    scene.guest.tool = False

    error = await error_of(parking(scene).park())

    assert isinstance(error, Refused)
    assert "io.cryo.park" in error.remedy
    assert scene.as_before()


async def test_a_thaw_without_end(make: Make) -> None:
    """A recovery has its deadline, and names who is not back."""
    scene = make(RUNNING, timeouts=Timeouts(thaw=60, rollback=0.3))
    there = await parked(scene)
    scene.journal.note(committed=False)
    scene.guest.faults["restore", 7] = Fault(hang=True)

    error = await error_of(there.recover())

    assert isinstance(error, DeadlineExceeded)
    assert "7" in error.message
