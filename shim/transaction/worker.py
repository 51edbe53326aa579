"""Long file work in a thread, with its news brought back and an end when the caller goes away."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Callable
from typing import TypeVar

from shim.errors import Cancelled
from shim.host.filecalls import ANSWER_S, file_call
from shim.host.shielded import shielded
from shim.image.hashing import OnBytes
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

    On cancellation the thread has ended when this returns, so that its files may be removed; one
    that hangs in a filesystem is left behind after `ANSWER_S`.
    """
    loop = asyncio.get_running_loop()
    stop = Stop()

    def tell(news: Progress) -> None:
        stop.check()
        loop.call_soon_threadsafe(report, news)

    reading = file_call(lambda: work(tell), doing="read the image", deadline_s=None)
    task = asyncio.ensure_future(reading)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        stop.set()
        # How the work ended is of no interest to a caller who has left.
        with contextlib.suppress(Exception):
            await shielded(task, deadline_s=ANSWER_S, doing="the work on the image")
        raise


def throttled(report: Report, phase: Phase, total_bytes: int) -> OnBytes:
    """Turn counts of bytes into news of a phase, at most ten a second and one at the end."""
    done_bytes = 0
    last_s = 0.0

    def on_bytes(count: int) -> None:
        nonlocal done_bytes, last_s
        done_bytes += count
        now_s = time.monotonic()
        if done_bytes >= total_bytes or now_s - last_s >= _NEWS_EVERY_S:
            last_s = now_s
            report(Progress(phase=phase, bytes_done=done_bytes, bytes_total=total_bytes))

    return on_bytes
