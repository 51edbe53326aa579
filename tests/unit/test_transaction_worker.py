"""Work in a thread that hears its caller."""

from __future__ import annotations

import asyncio
import threading

import pytest

from shim.errors import ImageCorrupt
from shim.model import Phase, Progress, Report
from shim.transaction.worker import in_thread, throttled
from tests.unit.image_helpers import News

STEP = Progress(phase=Phase.VERIFY)


async def test_the_result_and_the_news_arrive() -> None:
    """Reports come on the loop's own thread, in order, before the result."""
    news = News()
    threads: set[int] = set()

    def report(progress: Progress) -> None:
        threads.add(threading.get_ident())
        news(progress)

    def work(tell: Report) -> int:
        for count in range(5):
            tell(Progress(phase=Phase.VERIFY, bytes_done=count))
        return threading.get_ident()

    worker = await in_thread(work, report)

    assert [one.bytes_done for one in news.all] == [0, 1, 2, 3, 4]
    assert threads == {threading.get_ident()}
    assert worker not in threads


async def test_an_error_is_raised_as_it_is() -> None:
    """What the work raises, the caller gets."""

    def work(_tell: Report) -> None:
        message = "bad"
        raise ImageCorrupt(message)

    with pytest.raises(ImageCorrupt, match="bad"):
        await in_thread(work, News())


async def test_cancelling_ends_the_thread_first() -> None:
    """When the cancellation is felt, nobody works on the files any more, however often it came."""
    begun, ended = asyncio.Event(), threading.Event()
    go_on = threading.Event()
    loop = asyncio.get_running_loop()

    def work(tell: Report) -> None:
        loop.call_soon_threadsafe(begun.set)
        try:
            while True:
                go_on.wait(timeout=5)
                tell(STEP)
        finally:
            ended.set()

    task = asyncio.create_task(in_thread(work, News()))
    await begun.wait()
    for _ in range(3):
        task.cancel()
        await asyncio.sleep(0)
    assert not task.done()
    go_on.set()

    with pytest.raises(asyncio.CancelledError):
        await task
    assert ended.is_set()


async def test_work_that_ends_by_itself_after_a_cancellation() -> None:
    """A caller who left gets the cancellation, not the late error."""
    begun = asyncio.Event()
    go_on = threading.Event()
    loop = asyncio.get_running_loop()

    def work(_tell: Report) -> None:
        loop.call_soon_threadsafe(begun.set)
        go_on.wait(timeout=5)
        message = "late"
        raise ImageCorrupt(message)

    task = asyncio.create_task(in_thread(work, News()))
    await begun.wait()
    task.cancel()
    await asyncio.sleep(0)
    go_on.set()

    with pytest.raises(asyncio.CancelledError):
        await task


def test_news_is_bounded_and_the_last_is_told() -> None:
    """Thousands of pieces make a handful of news, and the end is always among them."""
    news = News()
    on_bytes = throttled(news, Phase.SEAL, 10_000)

    for _ in range(10_000):
        on_bytes(1)

    assert len(news.all) < 1000
    assert news.all[-1].bytes_done == news.all[-1].bytes_total == 10_000
