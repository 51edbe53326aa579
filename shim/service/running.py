"""Running operations: their progress, their result, and the token that cancels them."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any, Generic, TypeVar

from shim.errors import AlreadyExists, Cancelled
from shim.host.shielded import shielded
from shim.model import Progress, Report

_Result = TypeVar("_Result")

# Queued updates of a slow reader; beyond this byte counts are dropped, the rest is kept.
_BACKLOG = 256
# How many completed operations Cancel still finds.
_ENDED_MAX = 64


class RunningOperation(Generic[_Result]):
    """Runs one operation in its own asyncio task, so a cancelled call can wait for its rollback."""

    def __init__(self, begin: Callable[[Report], Coroutine[Any, Any, _Result]]) -> None:
        self._loop = asyncio.get_running_loop()
        self._cancelled = False
        self._updates: asyncio.Queue[Progress | None] = asyncio.Queue()
        self._task = asyncio.create_task(begin(self._report))
        self._task.add_done_callback(lambda _: self._updates.put_nowait(None))

    async def progress(self) -> AsyncIterator[Progress]:
        """Yield progress until the operation ends."""
        while (progress := await self._updates.get()) is not None:
            yield progress

    async def result(self) -> _Result:
        """Return the result of the operation, or raise its error.

        Raises:
            Cancelled: it was cancelled and has rolled back.
        """
        await self.settle()
        try:
            return self._task.result()
        except asyncio.CancelledError as error:
            message = "the operation was cancelled and rolled back"
            raise Cancelled(message) from error

    async def settle(self) -> None:
        """Wait for the end; a cancelled waiter does not cancel the operation."""
        await asyncio.wait({self._task})

    def cancel(self) -> None:
        """Cancel the operation, once: a second cancellation would interrupt the rollback."""
        if not self._cancelled:
            self._cancelled = True
            self._task.cancel()

    async def abandon(self) -> None:
        """Cancel the operation unless it has ended, and return when its rollback is complete.

        A cancellation of the caller is raised afterwards.
        """
        self.cancel()
        await shielded(self.settle(), deadline_s=None)

    def _report(self, progress: Progress) -> None:
        # The core may report from a worker thread, as when it digests files.
        self._loop.call_soon_threadsafe(self._take, progress)

    def _take(self, progress: Progress) -> None:
        crowded = self._updates.qsize() >= _BACKLOG
        if not crowded or progress.warning or progress.pid or not progress.bytes_done:
            self._updates.put_nowait(progress)


class RunningOperations:
    """Running and recently completed operations by their tokens."""

    def __init__(self) -> None:
        self._by_token: dict[str, RunningOperation[Any]] = {}
        # The newest last: a Cancel often arrives as its operation completes.
        self._ended: dict[str, RunningOperation[Any]] = {}

    def find(self, token: str) -> RunningOperation[Any] | None:
        """Return the operation with this token, running or recently completed."""
        return self._by_token.get(token) or self._ended.get(token)

    @contextlib.asynccontextmanager
    async def hold(
        self, token: str, begin: Callable[[Report], Coroutine[Any, Any, _Result]]
    ) -> AsyncIterator[RunningOperation[_Result]]:
        """Start an operation; leaving the context before its end cancels it and rolls it back.

        Raises:
            AlreadyExists: the token is in use.
        """
        if token in self._by_token:
            message = f"an operation with the token {token[:64]!r} is under way"
            raise AlreadyExists(message, remedy="use a random token")
        operation = RunningOperation(begin)
        if token:
            self._by_token[token] = operation
        try:
            yield operation
        finally:
            try:
                await operation.abandon()
            finally:
                if token:
                    self._by_token.pop(token, None)
                    self._remember(token, operation)

    def _remember(self, token: str, operation: RunningOperation[Any]) -> None:
        self._ended.pop(token, None)
        self._ended[token] = operation
        while len(self._ended) > _ENDED_MAX:
            self._ended.pop(next(iter(self._ended)))
