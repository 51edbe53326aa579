"""Long file work in a thread: its progress is reported to the loop, and it can be cancelled."""

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
_REPORT_EVERY_S = 0.1


class Stop:
    """A flag that is checked between pieces of work."""

    def __init__(self) -> None:
        self._event = threading.Event()

    def set(self) -> None:
        """End the work before its next piece."""
        self._event.set()

    @property
    def is_set(self) -> bool:
        """Whether the work is to end."""
        return self._event.is_set()

    def check(self) -> None:
        """Raise if the work is to end.

        Raises:
            Cancelled: the caller was cancelled.
        """
        if self._event.is_set():
            message = "cancelled"
            raise Cancelled(message)


async def in_thread(work: Callable[[Report], T], report: Report) -> T:
    """Run `work` in a thread; its reports are published on this loop.

    On cancellation the thread has ended when this returns, so that its files can be removed; one
    that hangs in a filesystem is abandoned after `ANSWER_S`.
    """
    loop = asyncio.get_running_loop()
    stop = Stop()

    def report_from_thread(progress: Progress) -> None:
        stop.check()
        loop.call_soon_threadsafe(report, progress)

    reading = file_call(lambda: work(report_from_thread), doing="read the image", deadline_s=None)
    task = asyncio.ensure_future(reading)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        stop.set()
        # The caller was cancelled: the outcome of the work is ignored.
        with contextlib.suppress(Exception):
            await shielded(task, deadline_s=ANSWER_S, doing="the work on the image")
        raise


def throttled(report: Report, phase: Phase, total_bytes: int) -> OnBytes:
    """Report counts of bytes as progress of a phase, at most ten times a second and at the end."""
    done_bytes = 0
    last_s = 0.0

    def on_bytes(count: int) -> None:
        nonlocal done_bytes, last_s
        done_bytes += count
        now_s = time.monotonic()
        if done_bytes >= total_bytes or now_s - last_s >= _REPORT_EVERY_S:
            last_s = now_s
            report(Progress(phase=phase, bytes_done=done_bytes, bytes_total=total_bytes))

    return on_bytes
