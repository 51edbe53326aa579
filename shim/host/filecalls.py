"""Calls into filesystems that may hang, such as NFS or Lustre without their server.

Each call has its own thread: a hung call cannot be stopped, so it must not block the event loop,
occupy a shared pool, or delay the exit of the process. A thread whose call has ended takes the next
one, because starting a thread costs more than most calls.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from queue import SimpleQueue
from typing import Any, Generic, TypeVar

from shim.errors import DeadlineExceeded, Unavailable

T = TypeVar("T")

# How long a filesystem may take for a call that moves no data.
ANSWER_S = 30.0
_HUNG_MAX = 64
# How many idle threads are kept for the next call; further threads exit after their call.
_IDLE_MAX = 8


class _Call(Generic[T]):
    """One call: its work, the future of its result, and whether it has ended."""

    def __init__(self, work: Callable[[], T], answer: asyncio.Future[T]) -> None:
        self._work = work
        self._answer = answer
        self.ended = False

    def do(self, thread: _Thread) -> None:
        """Run the work, mark the thread idle, and pass the result or error to the loop."""
        answer = self._answer
        try:
            result = self._work()
        except BaseException as error:  # noqa: BLE001 - raised again by the caller
            failed = error
            self._end(thread, lambda: answer.set_exception(failed))
        else:
            self._end(thread, lambda: answer.set_result(result))

    def _end(self, thread: _Thread, give: Callable[[], None]) -> None:
        self.ended = True
        # Before the answer: the caller may make its next call as soon as it has that.
        thread.offer()

        def deliver() -> None:
            if not self._answer.done():
                give()

        with contextlib.suppress(RuntimeError):  # the loop is closed, and the caller gone
            self._answer.get_loop().call_soon_threadsafe(deliver)


class _Thread(threading.Thread):
    """Runs one call after the other, idle in between; exits if enough threads are idle."""

    def __init__(self) -> None:
        super().__init__(name="file call", daemon=True)
        self._calls: SimpleQueue[_Call[Any]] = SimpleQueue()
        self._goes_on = True

    def give(self, call: _Call[Any]) -> None:
        self._calls.put(call)

    def offer(self) -> None:
        """Register as idle, unless enough threads are."""
        with _counting:
            self._goes_on = len(_idle) < _IDLE_MAX
            if self._goes_on:
                _idle.append(self)

    def run(self) -> None:
        while self._goes_on:
            self._calls.get().do(self)


# Threads without a call. A forked child has none of them.
_idle: list[_Thread] = []
_counting = threading.Lock()
os.register_at_fork(after_in_child=_idle.clear)
# Calls that still run after their caller timed out or was cancelled.
_hung: set[_Call[Any]] = set()


class Begun:
    """The calls that were begun within a block of `noted`."""

    def __init__(self) -> None:
        self._calls: list[_Call[Any]] = []

    def add(self, call: _Call[Any]) -> None:
        """Note a call."""
        self._calls.append(call)

    @property
    def are_under_way(self) -> bool:
        """Whether one has not ended, although its caller may have left."""
        self._calls = [call for call in self._calls if not call.ended]
        return bool(self._calls)


_noted: ContextVar[Begun | None] = ContextVar("who notes the calls", default=None)


@contextlib.contextmanager
def noted() -> Iterator[Begun]:
    """Note the calls of the block, and of the asyncio tasks that it starts."""
    begun = Begun()
    token = _noted.set(begun)
    try:
        yield begun
    finally:
        _noted.reset(token)


async def file_call(work: Callable[[], T], *, doing: str, deadline_s: float | None = ANSWER_S) -> T:
    """Run `work` in a thread and return its result; `doing` names it in messages.

    When the caller is cancelled, or the deadline passes, the call continues in its thread.

    Raises:
        DeadlineExceeded: the call did not end in time.
        Unavailable: too many calls are hung already.
    """
    if (hung := _count_hung()) >= _HUNG_MAX:
        message = f"cannot {doing}: {hung} filesystem calls are hung"
        raise Unavailable(message, remedy="find the mounts that hang, and umount -f them")
    answer: asyncio.Future[T] = asyncio.get_running_loop().create_future()
    call = _Call(work, answer)
    if (begun := _noted.get()) is not None:
        begun.add(call)
    _begin(call)
    try:
        async with asyncio.timeout(deadline_s):
            return await answer
    except TimeoutError as error:
        if not answer.cancelled():
            return answer.result()  # the error is the work's own, or it ended at the last moment
        _hung.add(call)
        message = f"cannot {doing}: the filesystem did not answer in {deadline_s:g} s"
        raise DeadlineExceeded(
            message, remedy="check that its server and the network are up, or umount -f it"
        ) from error
    except asyncio.CancelledError:
        _hung.add(call)  # until it ends, usually soon
        raise


def _begin(call: _Call[Any]) -> None:
    """Give the call to an idle thread, or to a new one."""
    try:
        thread = _idle.pop()
    except IndexError:
        thread = _Thread()
        thread.start()
    thread.give(call)


def _count_hung() -> int:
    """Count the hung calls, after removing those that have ended meanwhile."""
    for call in list(_hung):
        if call.ended:
            _hung.discard(call)
    return len(_hung)
