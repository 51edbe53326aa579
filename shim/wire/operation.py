"""A checkpoint or restore under way: its news, its end, and the token that cancels it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any, Generic, TypeVar

from shim.errors import AlreadyExists, Cancelled
from shim.host.shielded import shielded
from shim.model import Progress, Report

_Result = TypeVar("_Result")

# News that a slow reader has not taken; byte counts beyond are dropped, all else is kept.
_BACKLOG = 256
# How many ended operations can still be asked how they ended.
_ENDED_MAX = 64


class Operation(Generic[_Result]):
    """Runs one call of the core in a task of its own, so that it can be outlived and awaited."""

    def __init__(self, begin: Callable[[Report], Coroutine[Any, Any, _Result]]) -> None:
        self._loop = asyncio.get_running_loop()
        self._cancelled = False
        self._news: asyncio.Queue[Progress | None] = asyncio.Queue()
        self._task = asyncio.create_task(begin(self._report))
        self._task.add_done_callback(lambda _: self._news.put_nowait(None))

    async def news(self) -> AsyncIterator[Progress]:
        """Yield each step of news, until the operation has ended."""
        while (progress := await self._news.get()) is not None:
            yield progress

    async def result(self) -> _Result:
        """Return what the operation made, or raise what it raised.

        Raises:
            Cancelled: it was cancelled, and has rolled back.
        """
        await self.settle()
        try:
            return self._task.result()
        except asyncio.CancelledError as error:
            message = "the operation was cancelled and rolled back"
            raise Cancelled(message) from error

    async def settle(self) -> None:
        """Wait for the end, whatever it is; being cancelled oneself leaves the operation alone."""
        await asyncio.wait({self._task})

    def cancel(self) -> None:
        """Ask the core to roll back; once, because a second time would stop the rollback."""
        if not self._cancelled:
            self._cancelled = True
            self._task.cancel()

    async def abandon(self) -> None:
        """Roll back unless it has ended, and return only when that is over.

        The call may be cancelled again meanwhile: the rollback is seen out first.
        """
        self.cancel()
        await shielded(self.settle(), deadline_s=None)

    def _report(self, progress: Progress) -> None:
        # The core may report from a worker thread, as when it digests files.
        self._loop.call_soon_threadsafe(self._take, progress)

    def _take(self, progress: Progress) -> None:
        crowded = self._news.qsize() >= _BACKLOG
        if not crowded or progress.warning or progress.pid or not progress.bytes_done:
            self._news.put_nowait(progress)


class Operations:
    """The operations that can be cancelled by a token."""

    def __init__(self) -> None:
        self._by_token: dict[str, Operation[Any]] = {}
        # Those that have ended, the newest last: who cancels often does so as the call ends.
        self._ended: dict[str, Operation[Any]] = {}

    def find(self, token: str) -> Operation[Any] | None:
        """Return the operation that was begun with this token; of ended ones only the newest."""
        return self._by_token.get(token) or self._ended.get(token)

    @contextlib.asynccontextmanager
    async def hold(
        self, token: str, begin: Callable[[Report], Coroutine[Any, Any, _Result]]
    ) -> AsyncIterator[Operation[_Result]]:
        """Begin an operation and keep it findable; leaving early rolls it back.

        Raises:
            AlreadyExists: the token is in use.
        """
        if token in self._by_token:
            message = f"an operation with the token {token[:64]!r} is under way"
            raise AlreadyExists(message, remedy="choose a token at random")
        operation = Operation(begin)
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

    def _remember(self, token: str, operation: Operation[Any]) -> None:
        self._ended.pop(token, None)
        self._ended[token] = operation
        while len(self._ended) > _ENDED_MAX:
            self._ended.pop(next(iter(self._ended)))
