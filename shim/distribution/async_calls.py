"""Awaits from threads: each call runs on one event loop, and `close` ends those under way."""

from __future__ import annotations

import asyncio
import concurrent.futures
import threading
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from shim.errors import Cancelled, DeadlineExceeded

T = TypeVar("T")
# Work that notices by itself that it is to end can clean up; what hangs is cancelled.
_GRACE_S = 2.0


class AsyncCalls:
    """An event loop in a thread of its own, for the blocking calls of other threads."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._tasks: set[asyncio.Task[Any]] = set()
        self._lock = threading.Lock()
        self._closed = False

    @property
    def closed(self) -> bool:
        """Whether no call may begin or go on."""
        return self._closed

    def call(self, work: Callable[[], Awaitable[T]], deadline_s: float, doing: str) -> T:
        """Await what `work` returns.

        Raises:
            Cancelled: it is closed, or was meanwhile.
            DeadlineExceeded: it took too long; the work was cancelled.
        """
        with self._lock:
            if self._closed:
                raise _cancelled(doing)
            loop = self._loop or self._start()
            future = asyncio.run_coroutine_threadsafe(self._tracked(work), loop)
        try:
            return future.result(deadline_s)
        except concurrent.futures.CancelledError as error:
            raise _cancelled(doing) from error
        except concurrent.futures.TimeoutError as error:
            if future.cancel():
                message = f"cannot {doing} in {deadline_s:.0f} s"
                raise DeadlineExceeded(message, remedy="try again later") from error
            raise

    def close(self) -> None:
        """End the calls under way, and the thread. Idempotent."""
        with self._lock:
            self._closed = True
            loop, thread = self._loop, self._thread
            self._loop = self._thread = None
        if loop is None or thread is None:
            return
        asyncio.run_coroutine_threadsafe(self._end(), loop).result()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()

    def _start(self) -> asyncio.AbstractEventLoop:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name=self._name, daemon=True)
        self._thread.start()
        return self._loop

    async def _tracked(self, work: Callable[[], Awaitable[T]]) -> T:
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - it runs in one
        self._tasks.add(task)
        try:
            return await work()
        finally:
            self._tasks.discard(task)

    async def _end(self) -> None:
        if self._tasks:
            await asyncio.wait(set(self._tasks), timeout=_GRACE_S)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


def _cancelled(doing: str) -> Cancelled:
    return Cancelled(f"cancelled: {doing}")
