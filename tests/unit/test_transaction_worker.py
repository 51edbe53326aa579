"""Work in a thread that its caller can cancel."""

from __future__ import annotations

import asyncio
import threading

import pytest

from shim.errors import ImageCorrupt
from shim.model import Phase, Progress, Report
from shim.transaction.worker import in_thread, throttled
from tests.unit.image_helpers import ProgressLog

STEP = Progress(phase=Phase.VERIFY)


async def test_the_result_and_the_progress_arrive() -> None:
    """Reports come on the loop's own thread, in order, before the result."""
    updates = ProgressLog()
    threads: set[int] = set()

    def report(progress: Progress) -> None:
        threads.add(threading.get_ident())
        updates(progress)

    def work(on_progress: Report) -> int:
        for count in range(5):
            on_progress(Progress(phase=Phase.VERIFY, bytes_done=count))
        return threading.get_ident()

    worker = await in_thread(work, report)

    assert [one.bytes_done for one in updates.all] == [0, 1, 2, 3, 4]
    assert threads == {threading.get_ident()}
    assert worker not in threads


async def test_an_error_is_raised_as_it_is() -> None:
    """What the work raises, the caller gets."""

    def work(_on_progress: Report) -> None:
        message = "bad"
        raise ImageCorrupt(message)

    with pytest.raises(ImageCorrupt, match="bad"):
        await in_thread(work, ProgressLog())


async def test_cancelling_ends_the_thread_first() -> None:
    """When the cancellation returns, the files are not used any more, however often it came."""
    begun, ended = asyncio.Event(), threading.Event()
    resume_sandbox = threading.Event()
    loop = asyncio.get_running_loop()

    def work(on_progress: Report) -> None:
        loop.call_soon_threadsafe(begun.set)
        try:
            while True:
                resume_sandbox.wait(timeout=5)
                on_progress(STEP)
        finally:
            ended.set()

    task = asyncio.create_task(in_thread(work, ProgressLog()))
    await begun.wait()
    for _ in range(3):
        task.cancel()
        await asyncio.sleep(0)
    assert not task.done()
    resume_sandbox.set()

    with pytest.raises(asyncio.CancelledError):
        await task
    assert ended.is_set()


async def test_work_that_ends_by_itself_after_a_cancellation() -> None:
    """A caller who left gets the cancellation, not the late error."""
    begun = asyncio.Event()
    resume_sandbox = threading.Event()
    loop = asyncio.get_running_loop()

    def work(_on_progress: Report) -> None:
        loop.call_soon_threadsafe(begun.set)
        resume_sandbox.wait(timeout=5)
        message = "late"
        raise ImageCorrupt(message)

    task = asyncio.create_task(in_thread(work, ProgressLog()))
    await begun.wait()
    task.cancel()
    await asyncio.sleep(0)
    resume_sandbox.set()

    with pytest.raises(asyncio.CancelledError):
        await task


def test_progress_is_bounded_and_the_last_is_reported() -> None:
    """Thousands of pieces make a few updates, and the end is always among them."""
    updates = ProgressLog()
    on_bytes = throttled(updates, Phase.SEAL, 10_000)

    for _ in range(10_000):
        on_bytes(1)

    assert len(updates.all) < 1000
    assert updates.all[-1].bytes_done == updates.all[-1].bytes_total == 10_000
