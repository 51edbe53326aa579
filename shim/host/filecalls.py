"""Calls into filesystems that may not answer, as NFS or Lustre do not when their server is gone.

Each has a thread to itself: a call that hangs cannot be ended, so it must not hold the event loop,
nor a place in a pool that others need, nor the end of the process. A thread whose call has ended
takes the next one, for to start a thread costs more than most calls do.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any, Generic, TypeVar

from shim.errors import DeadlineExceeded, Unavailable

T = TypeVar("T")

# How long a filesystem may take for a call that moves no data.
ANSWER_S = 30.0
_HUNG_MAX = 64
# How many threads wait for the next call; more than these end with their own.
_IDLE_MAX = 8


class _Call(Generic[T]):
    """One call: its work, who waits for it, and whether it has ended."""

    def __init__(self, work: Callable[[], T], answer: asyncio.Future[T]) -> None:
        self._work = work
        self._answer = answer
        self.ended = False

    def do(self, thread: _Thread) -> None:
        """Do the work, make the thread free, and give the result, or the error, to the loop."""
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
        # First: the caller's next call comes as soon as it has its answer.
        thread.offer()

        def once() -> None:
            if not self._answer.done():
                give()

        with contextlib.suppress(RuntimeError):  # the loop is closed: there is no caller any more
            self._answer.get_loop().call_soon_threadsafe(once)


class _Thread(threading.Thread):
    """Does one call after the other, and is idle in between; ends where enough are idle."""

    def __init__(self) -> None:
        super().__init__(name="file call", daemon=True)
        self._calls: SimpleQueue[_Call[Any]] = SimpleQueue()
        self._goes_on = True

    def give(self, call: _Call[Any]) -> None:
        self._calls.put(call)

    def offer(self) -> None:
        """Be there for the next call."""
        with _counting:
            self._goes_on = len(_idle) < _IDLE_MAX
            if self._goes_on:
                _idle.append(self)

    def run(self) -> None:
        while self._goes_on:
            self._calls.get().do(self)


# Threads without a call. A fork takes none of them along.
_idle: list[_Thread] = []
_counting = threading.Lock()
os.register_at_fork(after_in_child=_idle.clear)
# Calls that go on without a caller, who got an error or has left.
_hung: set[_Call[Any]] = set()


async def file_call(work: Callable[[], T], *, doing: str, deadline_s: float | None = ANSWER_S) -> T:
    """Run `work` in a thread and return its result; `doing` names it in messages.

    When the caller is cancelled, or the deadline has passed, the call goes on by itself.

    Raises:
        DeadlineExceeded: it did not end in time.
        Unavailable: too many calls hang already.
    """
    if (hung := _count_hung()) >= _HUNG_MAX:
        message = f"cannot {doing}: {hung} calls to filesystems do not end"
        raise Unavailable(message, remedy="see which mounts do not answer, and umount -f them")
    answer: asyncio.Future[T] = asyncio.get_running_loop().create_future()
    call = _Call(work, answer)
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
            message, remedy="see whether its server and the network are up; umount -f ends the wait"
        ) from error
    except asyncio.CancelledError:
        _hung.add(call)  # until it ends, which most do soon
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
    """Count the calls that do not end; one may have ended just before its caller gave up on it."""
    for call in list(_hung):
        if call.ended:
            _hung.discard(call)
    return len(_hung)
