"""What the next owner does with a checkpoint that its owner did not complete."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from shim.config import Timeouts
from shim.errors import CudaError
from shim.host import procs
from shim.model import CudaProcess, CudaState, EngineName, Phase
from shim.runsc.output import GuestProcess
from shim.transaction.journal import Entry, Operation
from shim.transaction.recover import committed, discard, recover
from tests.unit.fakes_guest import Fault, failed
from tests.unit.fakes_target import Make, Scene, in_states, sleeping
from tests.unit.image_helpers import sealed

RUNNING, LOCKED, FROZEN = CudaState.RUNNING, CudaState.LOCKED, CudaState.CHECKPOINTED


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Make]:
    """Return a factory of tasks whose CUDA processes are in these states."""
    with in_states(tmp_path) as made:
        yield made


def begun(scene: Scene, phase: Phase, **more: Any) -> Entry:
    """Write the journal of an owner that was killed, with a staging folder."""
    staging = scene.images / ".cryo-staging-1"
    if not more.get("committed"):
        staging.mkdir(parents=True)
        (staging / "checkpoint.img").write_bytes(b"half")
    leaving = more.pop("exit", False)
    scene.journal.open(
        Operation.CHECKPOINT,
        str(scene.images / "image"),
        was_paused=scene.paused,
        exit=leaving,
    )
    entry: dict[str, Any] = {
        "phase": phase,
        "staging": str(staging),
        "engine": EngineName.PHASED,
        **more,
    }
    scene.journal.note(**entry)
    scene.journal.processes([CudaProcess(pid=p.pid, name=p.name) for p in scene.guest.processes])
    found = scene.on_disk()
    assert found is not None
    return found


async def recovered(scene: Scene, entry: Entry) -> str:
    """Do what the next owner does."""
    return await recover(scene.target, entry, scene.updates.append)


@pytest.mark.parametrize(
    ("phase", "states"),
    (
        (Phase.PREFLIGHT, (RUNNING, RUNNING)),
        (Phase.FREEZE, (RUNNING, RUNNING)),
        (Phase.FREEZE, (LOCKED, RUNNING)),
        (Phase.FREEZE, (LOCKED, FROZEN)),
        (Phase.SAVE, (FROZEN, FROZEN)),
        (Phase.THAW, (RUNNING, FROZEN)),
        (Phase.THAW, (LOCKED, RUNNING)),
        (Phase.SEAL, (RUNNING, RUNNING)),
    ),
)
@pytest.mark.parametrize("paused", (False, True))
async def test_killed_in_any_phase(
    make: Make, phase: Phase, states: tuple[CudaState, ...], paused: bool
) -> None:
    """Every process runs again, paused as it was, and nothing half-made is left."""
    scene = make(*states, paused=paused)

    said = await recovered(scene, begun(scene, phase))

    assert scene.as_before()
    assert ("paused" if paused else "running") in said
    assert "is removed" in said


async def test_a_recovery_that_was_killed_is_begun_again(make: Make) -> None:
    """What the first one did is no hindrance to the second."""
    scene = make(FROZEN, FROZEN)
    scene.guest.faults["restore", 8] = Fault(hang=True)
    first = asyncio.create_task(recovered(scene, begun(scene, Phase.SAVE)))
    await asyncio.wait_for(scene.guest.hanging.wait(), 60)
    first.cancel()
    await asyncio.gather(first, return_exceptions=True)

    entry = scene.journal.load()
    assert entry is not None
    await recovered(scene, entry)

    assert scene.as_before()


async def test_killed_before_an_engine_was_chosen(make: Make) -> None:
    """Nothing was done inside; a paused task that was woken to look into it is paused again."""
    scene = make(RUNNING, paused=True)
    entry = begun(scene, Phase.PREFLIGHT, engine=None)
    scene.guest.paused = False

    await recovered(scene, entry)

    assert scene.guest.calls == []
    assert scene.as_before()


async def test_a_save_that_is_still_under_way(make: Make) -> None:
    """Runsc outlives its owner: nothing is thawed before it ends."""
    scene = make(FROZEN)
    with sleeping() as saving:
        start = procs.start_time(saving.pid) or 0
        entry = begun(scene, Phase.SAVE, save_pid=saving.pid, save_start=start)
        work = asyncio.create_task(recovered(scene, entry))
        await asyncio.sleep(0.05)
        assert scene.guest.state(7) is FROZEN
        assert not work.done()
        saving.kill()
        await asyncio.wait_for(work, 60)

    assert scene.as_before()


async def test_another_process_with_that_pid_is_not_waited_for(make: Make) -> None:
    """Pids are reused: the start time shows it."""
    scene = make(FROZEN)
    entry = begun(scene, Phase.SAVE, save_pid=1, save_start=12345)

    await asyncio.wait_for(recovered(scene, entry), 60)

    assert scene.as_before()


async def test_tools_of_the_dead_owner_are_waited_for_then_ended(make: Make) -> None:
    """A tool that still runs would act after us; one that was there before is left alone."""
    scene = make(LOCKED, timeouts=Timeouts(freeze=0.1, thaw=5, rollback=5))
    theirs = GuestProcess(pid=40, parent=0, command="bash")
    tool = GuestProcess(pid=50, parent=0, command="cuda-checkpoint")
    scene.guest.execs = (theirs, tool)
    entry = begun(scene, Phase.FREEZE, exec_processes=(40,))

    await recovered(scene, entry)

    assert scene.guest.ended == [50]
    assert scene.as_before()


async def test_the_builtin_engine_settles_first(make: Make) -> None:
    """What the sentry owes is done before ours."""
    scene = make(FROZEN)

    await recovered(scene, begun(scene, Phase.SAVE, engine=EngineName.BUILTIN))

    assert scene.guest.settle_calls == 1
    assert scene.as_before()


async def test_a_process_that_does_not_come_back_keeps_the_journal(make: Make) -> None:
    """The next start tries again."""
    scene = make(FROZEN, FROZEN)
    scene.guest.faults["restore", 8] = Fault(answer=failed("no"), times=9)
    entry = begun(scene, Phase.SAVE)

    with pytest.raises(CudaError, match=r"process 8 \(p8\)"):
        await recovered(scene, entry)

    assert scene.guest.states == [RUNNING, FROZEN]
    assert scene.on_disk() is not None


async def test_one_that_is_gone_is_no_error(make: Make) -> None:
    """A process that ended meanwhile needs no thaw."""
    scene = make(FROZEN, FROZEN)
    entry = begun(scene, Phase.SAVE)
    scene.guest.gone(8)()

    await recovered(scene, entry)

    assert scene.as_before()


# -- what was committed --------------------------------------------------------------------------


async def test_with_exit_a_committed_image_ends_the_task(make: Make) -> None:
    """The image has its name: what was left to do was the end, and it is done."""
    scene = make(FROZEN)
    entry = begun(scene, Phase.STOP, committed=True, exit=True)
    sealed(scene.images / "image")

    said = await recovered(scene, entry)

    assert scene.events == ["stop"]
    assert "stopped it" in said
    assert scene.guest.state(7) is FROZEN
    assert (scene.images / "image").is_dir()
    assert scene.on_disk() is None


async def test_with_exit_and_no_image_the_task_comes_back(make: Make) -> None:
    """Without an image it must not end."""
    scene = make(FROZEN)

    await recovered(scene, begun(scene, Phase.SAVE, exit=True))

    assert "stop" not in scene.events
    assert scene.as_before()


async def test_a_commit_that_the_journal_did_not_live_to_note(make: Make) -> None:
    """The rename was done, the record was not: the image's own name shows it."""
    scene = make(FROZEN)
    entry = begun(scene, Phase.COMMIT, exit=True)
    (scene.images / ".cryo-staging-1" / "checkpoint.img").unlink()
    (scene.images / ".cryo-staging-1").rmdir()
    sealed(scene.images / "image")

    assert await committed(entry)
    await recovered(scene, entry)
    assert scene.events == ["stop"]


async def test_a_commit_that_was_not_done(make: Make) -> None:
    """With the staging still there, whatever has the name is another's image."""
    scene = make(RUNNING)
    entry = begun(scene, Phase.COMMIT)
    sealed(scene.images / "image")

    assert not await committed(entry)
    await recovered(scene, entry)
    assert [path.name for path in scene.image_folders] == ["image"]


@pytest.mark.parametrize("phase", (Phase.PREFLIGHT, Phase.SAVE, Phase.SEAL))
async def test_nothing_is_committed_before_the_commit(make: Make, phase: Phase) -> None:
    """An image of that name in an earlier phase is another's."""
    scene = make()
    entry = begun(scene, phase, staging="")
    sealed(scene.images / "image")

    assert not await committed(entry)


async def test_a_finished_image_stays_and_the_task_runs(make: Make) -> None:
    """Killed right after the commit: both are there."""
    scene = make(RUNNING)
    entry = begun(scene, Phase.COMMIT, committed=True)
    sealed(scene.images / "image")

    said = await recovered(scene, entry)

    assert "is complete" in said
    assert scene.guest.states == [RUNNING]
    assert (scene.images / "image").is_dir()


async def test_a_dead_sandbox_leaves_only_things_to_remove(make: Make) -> None:
    """There is no process to thaw."""
    scene = make(FROZEN)
    entry = begun(scene, Phase.SAVE)

    said = await discard(scene.target, entry)

    assert "is removed" in said
    assert scene.guest.calls == []
    assert scene.image_folders == []
    assert scene.on_disk() is None
