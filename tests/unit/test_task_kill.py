"""KILL interrupts whatever is under way with a task, and its caller gets an error that says so."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from shim.errors import Busy, CryoError, IllegalState, RunscError
from shim.model import CheckpointOptions, CheckpointResult, EngineName, Progress, Stdio
from shim.simgpu.waiting import wait_until
from shim.state import TaskState
from shim.task.transactions import Transactions
from tests.unit.fakes_tasks import Hung, Owner, owning

PROGRAM = {"args": ["/bin/sh"], "cwd": "/", "env": ["A=b"]}
WAIT_S = 60


@pytest.fixture
async def owner(tmp_path: Path) -> AsyncIterator[Owner]:
    """Give an owner with a running task `a`."""
    async with owning(tmp_path) as made:
        await made.running()
        yield made


def silent(_progress: Progress) -> None:
    """Hear nothing."""


async def killed(owner: Owner) -> int:
    """Kill the task, and return its exit status; both are bounded."""
    await asyncio.wait_for(owner.tasks.kill(owner.ref(), 9), WAIT_S)
    return (await asyncio.wait_for(owner.tasks.wait(owner.ref()), WAIT_S)).status


async def interrupted(owner: Owner, hung: Hung, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Kill the task in the middle of a checkpoint; return how that ended for its caller."""
    monkeypatch.setattr("shim.task.sandbox.Checkpoint.run", hung.run)
    work = asyncio.ensure_future(owner.tasks.checkpoint(owner.ref(), CheckpointOptions(), silent))
    await asyncio.wait_for(hung.begun.wait(), WAIT_S)

    assert await killed(owner) == 137
    return (await asyncio.gather(work, return_exceptions=True))[0]


async def test_during_a_checkpoint(owner: Owner, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is cancelled, the task ends, and the caller of the checkpoint gets the reason."""
    error = await interrupted(owner, Hung(), monkeypatch)

    assert isinstance(error, IllegalState)
    assert "was killed during the checkpoint" in str(error)
    assert (await owner.tasks.state(owner.ref())).state is TaskState.STOPPED
    assert owner.topics[-1] == "exit"
    await owner.tasks.delete(owner.ref())


async def test_a_rollback_that_fails_in_a_dead_sandbox(
    owner: Owner, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error is the kill, and not what it led to."""
    hung = Hung()

    def fail() -> object:
        raise RunscError("resume", 1, "no such sandbox")

    hung.ends = fail
    error = await interrupted(owner, hung, monkeypatch)

    assert isinstance(error, IllegalState)


async def test_a_checkpoint_that_was_complete(
    owner: Owner, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its image is there, so its caller gets the result."""
    hung = Hung()
    hung.ends = lambda: CheckpointResult(
        image_path="/i", size_bytes=1, digest="d", engine=EngineName.AUTO
    )
    result = await interrupted(owner, hung, monkeypatch)

    assert isinstance(result, CheckpointResult)


async def test_other_signals_wait_for_a_checkpoint(
    owner: Owner, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only KILL ends it."""
    hung = Hung()
    monkeypatch.setattr("shim.task.sandbox.Checkpoint.run", hung.run)
    work = asyncio.ensure_future(owner.tasks.checkpoint(owner.ref(), CheckpointOptions(), silent))
    await asyncio.wait_for(hung.begun.wait(), WAIT_S)

    with pytest.raises(Busy):
        await owner.tasks.kill(owner.ref(), 15)

    assert not work.done()
    assert await killed(owner) == 137
    await asyncio.gather(work, return_exceptions=True)


async def test_while_it_is_parked(owner: Owner, monkeypatch: pytest.MonkeyPatch) -> None:
    """A pause that gives GPU memory back is cancelled as a checkpoint is."""
    hung = Hung()
    monkeypatch.setattr("shim.task.container.Container.parks", True)
    monkeypatch.setattr("shim.task.sandbox.Sandbox.park", hung.run)
    work = asyncio.ensure_future(owner.tasks.pause(owner.ref()))
    await asyncio.wait_for(hung.begun.wait(), WAIT_S)

    assert await killed(owner) == 137
    with pytest.raises(IllegalState, match="was killed during the pause"):
        await work


async def test_during_its_start(tmp_path: Path) -> None:
    """A `runsc start` that hangs is ended, and the exit comes."""
    async with owning(tmp_path) as owner:
        begun = owner.folder / "begun"
        owner.script.on("start", f"touch {begun}; exec sleep 1000")
        await owner.tasks.create(owner.request())
        work = asyncio.ensure_future(owner.tasks.start(owner.ref()))
        await asyncio.to_thread(wait_until, begun.exists, "the start", WAIT_S)

        assert await killed(owner) == 137
        with pytest.raises(IllegalState, match="was killed during the start"):
            await work


async def test_while_an_exec_starts(owner: Owner) -> None:
    """A `runsc exec` that does not answer holds up neither the kill nor another exec."""
    owner.supervisor.numbered = False
    await owner.tasks.exec(owner.ref(), "hung", PROGRAM, Stdio())
    owner.supervisor.making.clear()
    hung = asyncio.ensure_future(owner.tasks.start(owner.ref(), "hung"))
    await asyncio.wait_for(owner.supervisor.making.wait(), WAIT_S)
    owner.supervisor.numbered = True
    await owner.tasks.exec(owner.ref(), "other", PROGRAM, Stdio())

    assert await asyncio.wait_for(owner.tasks.start(owner.ref(), "other"), WAIT_S) > 0
    assert not hung.done()
    await asyncio.wait_for(owner.tasks.kill(owner.ref(), 9), WAIT_S)
    with pytest.raises(CryoError, match="killed"):  # it did not reach its own deadline
        await hung
    assert (await asyncio.wait_for(owner.tasks.wait(owner.ref()), WAIT_S)).status == 137


async def test_while_it_is_paused_by_a_runsc_that_hangs(owner: Owner) -> None:
    """A holder of the task's lock does not hold up the kill."""
    begun = owner.folder / "begun"
    owner.script.on("pause", f"touch {begun}; exec sleep 1000")
    work = asyncio.ensure_future(owner.tasks.pause(owner.ref()))
    await asyncio.to_thread(wait_until, begun.exists, "the pause", WAIT_S)

    assert await killed(owner) == 137
    assert not work.done()
    work.cancel()
    await asyncio.wait({work})


async def test_a_runsc_kill_that_hangs(owner: Owner, monkeypatch: pytest.MonkeyPatch) -> None:
    """The sandbox is killed without it."""
    monkeypatch.setattr("shim.task.kill._SENTRY_S", 0.01)
    owner.script.on("kill", "exec sleep 1000")

    assert await killed(owner) == 137


# -- the operations under way --------------------------------------------------------------------


async def test_a_caller_who_leaves_too_late_gets_the_result() -> None:
    """A completed operation is not reported as rolled back."""
    hung = Hung()
    hung.ends = lambda: 7
    work = asyncio.ensure_future(Transactions().run(hung.run(), "checkpoint"))
    await asyncio.wait_for(hung.begun.wait(), WAIT_S)

    work.cancel()

    assert await work == 7


async def test_a_caller_who_leaves_waits_for_the_rollback() -> None:
    """And learns that it was cancelled, or why it could not be rolled back."""
    for fails in (None, RunscError("resume", 1, "no")):
        hung = Hung()

        def end(error: Exception | None = fails) -> None:
            if error is not None:
                raise error

        hung.ends = end
        work = asyncio.ensure_future(Transactions().run(hung.run(), "checkpoint"))
        await asyncio.wait_for(hung.begun.wait(), WAIT_S)
        work.cancel()
        with pytest.raises(asyncio.CancelledError if fails is None else RunscError):
            await work


async def test_a_stop_cancels_what_takes_too_long() -> None:
    """And waits for its rollback."""
    transactions, hung = Transactions(), Hung()
    work = asyncio.ensure_future(transactions.run(hung.run(), "checkpoint"))
    await asyncio.wait_for(hung.begun.wait(), WAIT_S)

    await asyncio.wait_for(transactions.finish(0.01), WAIT_S)

    with pytest.raises(asyncio.CancelledError):
        await work
