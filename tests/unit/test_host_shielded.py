"""Work that must not be broken off: its result, its error, its deadline, and who cancels whom."""

from __future__ import annotations

import asyncio
import logging

import pytest

from shim.errors import Busy, DeadlineExceeded
from shim.host.shielded import shielded


class Work:
    """Work that ends on request, and records what happened to it."""

    def __init__(self) -> None:
        self.begun, self.may_end = asyncio.Event(), asyncio.Event()
        self.done = self.cancelled = False

    async def run(self) -> str:
        """Wait for the word to end."""
        self.begun.set()
        try:
            await self.may_end.wait()
        except asyncio.CancelledError:
            self.cancelled = True
            raise
        self.done = True
        return "result"


async def test_the_result_is_returned() -> None:
    """What the work returns is what the caller gets."""
    work = Work()
    work.may_end.set()

    assert await shielded(work.run(), deadline_s=60) == "result"


async def test_the_error_of_the_work_is_raised() -> None:
    """An error of the work reaches the caller as it is."""

    async def fails() -> None:
        raise Busy("in use")

    with pytest.raises(Busy, match="in use"):
        await shielded(fails(), deadline_s=60)


async def test_repeated_cancellation_does_not_reach_the_work() -> None:
    """However often the caller is cancelled, the work ends first; then the caller is cancelled."""
    work = Work()
    caller = asyncio.create_task(shielded(work.run(), deadline_s=None))
    await work.begun.wait()
    for _ in range(5):
        caller.cancel()
        await asyncio.sleep(0)
    assert not caller.done()
    work.may_end.set()

    with pytest.raises(asyncio.CancelledError):
        await caller
    assert work.done
    assert not work.cancelled


async def test_an_error_is_raised_in_place_of_the_cancellation() -> None:
    """A cancelled caller gets the error when the work failed."""
    begun, may_end = asyncio.Event(), asyncio.Event()

    async def fails() -> None:
        begun.set()
        await may_end.wait()
        raise Busy("in use")

    caller = asyncio.create_task(shielded(fails(), deadline_s=None))
    await begun.wait()
    caller.cancel()
    await asyncio.sleep(0)
    may_end.set()

    with pytest.raises(Busy, match="in use"):
        await caller


async def test_the_deadline_fires_and_names_the_work() -> None:
    """At its deadline the work is cancelled, and the error says which work it was."""
    work = Work()

    with pytest.raises(DeadlineExceeded, match=r"remove the sandbox did not end in 0\.01 s$"):
        await shielded(work.run(), deadline_s=0.01, doing="remove the sandbox")
    assert work.cancelled


async def test_the_deadline_fires_for_a_caller_that_is_cancelled() -> None:
    """Cancellations of the caller do not put the deadline off."""
    work = Work()
    caller = asyncio.create_task(shielded(work.run(), deadline_s=0.05))
    await work.begun.wait()
    caller.cancel()

    with pytest.raises(DeadlineExceeded, match=r"Work\.run did not end"):
        await caller
    assert work.cancelled


async def test_a_timeout_around_it_fires_once_the_work_has_ended() -> None:
    """`asyncio.timeout` around it raises TimeoutError, and the work was not broken off."""
    work = Work()
    asyncio.get_running_loop().call_later(0.05, work.may_end.set)

    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await shielded(work.run(), deadline_s=60)
    assert work.done


async def test_work_that_ignores_its_cancellation_is_left_and_named(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Work that goes on after its deadline does not hold up its caller, and its end is logged."""
    stubborn, ended = asyncio.Event(), asyncio.Event()

    async def ignores() -> None:
        while not stubborn.is_set():
            try:
                await stubborn.wait()
            except asyncio.CancelledError:
                continue
        ended.set()
        raise Busy("too late")

    with pytest.raises(DeadlineExceeded, match="still runs although it was cancelled"):
        await shielded(ignores(), deadline_s=0.01, grace_s=0.01, doing="ignore it")

    with caplog.at_level(logging.WARNING):
        stubborn.set()
        await ended.wait()
        await asyncio.sleep(0)
    assert "ignore it failed after its deadline: too late" in caplog.text


async def test_a_task_that_runs_already_is_waited_for() -> None:
    """A task begun elsewhere is seen to its end in the same way."""
    work = Work()
    task = asyncio.create_task(work.run())
    await work.begun.wait()
    caller = asyncio.create_task(shielded(task, deadline_s=None))
    await asyncio.sleep(0)
    caller.cancel()
    await asyncio.sleep(0)
    work.may_end.set()

    with pytest.raises(asyncio.CancelledError):
        await caller
    assert task.result() == "result"
