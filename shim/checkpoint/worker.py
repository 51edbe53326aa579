"""Long file work in a thread, with its news brought back and an end when the caller goes away."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from shim.checkpoint.hashing import Tick
from shim.errors import Cancelled
from shim.model import Phase, Progress, Report

T = TypeVar("T")
_NEWS_EVERY_S = 0.1


class Stop:
    """Asked between pieces of work whether to go on."""

    def __init__(self) -> None:
        self._event = threading.Event()

    def set(self) -> None:
        """Ask the work to end at the next piece."""
        self._event.set()

    def check(self) -> None:
        """Go on, or not.

        Raises:
            Cancelled: the caller went away.
        """
        if self._event.is_set():
            message = "cancelled"
            raise Cancelled(message)


async def in_thread(work: Callable[[Report], T], report: Report) -> T:
    """Run `work` in a thread; its reports arrive on this loop, and cancelling ends it soon.

    On cancellation the thread has ended when this returns, so that its files may be removed.
    """
    loop = asyncio.get_running_loop()
    stop = Stop()

    def tell(news: Progress) -> None:
        stop.check()
        loop.call_soon_threadsafe(report, news)

    task = asyncio.ensure_future(asyncio.to_thread(work, tell))
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        stop.set()
        await _ended(task)
        raise


async def _ended(task: asyncio.Future[T]) -> None:
    """Wait for the thread however often the caller is cancelled: its files are still in use."""
    while not task.done():
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.wait({task})
    if not task.cancelled():
        task.exception()  # how the work ended is of no interest to who has left


def metered(report: Report, phase: Phase, total_bytes: int) -> Tick:
    """Turn counts of bytes into news of a phase, at most ten a second and one at the end."""
    done_bytes = 0
    last_s = 0.0

    def tick(count: int) -> None:
        nonlocal done_bytes, last_s
        done_bytes += count
        now_s = time.monotonic()
        if done_bytes >= total_bytes or now_s - last_s >= _NEWS_EVERY_S:
            last_s = now_s
            report(Progress(phase=phase, bytes_done=done_bytes, bytes_total=total_bytes))

    return tick


async def settled(work: asyncio.Future[T]) -> None:
    """Wait for the end of work that must not be broken off; its result is left in it."""
    await _ended(work)


async def unbroken(work: Coroutine[Any, Any, None]) -> None:
    """Do work to its end though the caller is cancelled meanwhile, and only then be cancelled."""
    task = asyncio.ensure_future(work)
    try:
        await asyncio.shield(task)
    except asyncio.CancelledError:
        await settled(task)
        task.result()
        raise
