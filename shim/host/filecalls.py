"""Calls into filesystems that may not answer, as NFS or Lustre do not when their server is gone.

Each runs in a thread of its own: a call that hangs cannot be ended, so it must not hold the event
loop, nor a place in a pool that others need, nor the end of the process.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable
from typing import TypeVar

from shim.errors import DeadlineExceeded, Unavailable

T = TypeVar("T")

# How long a filesystem may take for a call that moves no data.
ANSWER_S = 30.0
_HUNG_MAX = 64

# Threads that go on without a caller, who got an error or has left.
_hung: set[threading.Thread] = set()


async def file_call(work: Callable[[], T], *, doing: str, deadline_s: float | None = ANSWER_S) -> T:
    """Run `work` in a thread of its own and return its result; `doing` names it in messages.

    When the caller is cancelled, or the deadline has passed, the thread goes on by itself.

    Raises:
        DeadlineExceeded: it did not end in time.
        Unavailable: too many calls hang already.
    """
    if (hung := _count_hung()) >= _HUNG_MAX:
        message = f"cannot {doing}: {hung} calls to filesystems do not end"
        raise Unavailable(message, remedy="see which mounts do not answer, and umount -f them")
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[T] = loop.create_future()
    thread = threading.Thread(target=_answer, args=(work, answer), name="file call", daemon=True)
    thread.start()
    try:
        async with asyncio.timeout(deadline_s):
            return await answer
    except TimeoutError as error:
        if not answer.cancelled():
            return answer.result()  # the error is the work's own, or it ended at the last moment
        _hung.add(thread)
        message = f"cannot {doing}: the filesystem did not answer in {deadline_s:g} s"
        raise DeadlineExceeded(
            message, remedy="see whether its server and the network are up; umount -f ends the wait"
        ) from error
    except asyncio.CancelledError:
        _hung.add(thread)  # until it ends, which most do soon
        raise


def _count_hung() -> int:
    """Count the calls that do not end; one may have ended just before its caller gave up on it."""
    for thread in list(_hung):
        if not thread.is_alive():
            _hung.discard(thread)
    return len(_hung)


def _answer(work: Callable[[], T], answer: asyncio.Future[T]) -> None:
    """Do the work and give its result, or its error, to the loop that waits for it."""
    try:
        result = work()
    except BaseException as error:  # noqa: BLE001 - raised again by the caller
        failed = error
        _deliver(answer, lambda: answer.set_exception(failed))
    else:
        _deliver(answer, lambda: answer.set_result(result))


def _deliver(answer: asyncio.Future[T], give: Callable[[], None]) -> None:
    def once() -> None:
        if not answer.done():
            give()

    with contextlib.suppress(RuntimeError):  # the loop is closed: there is no caller any more
        answer.get_loop().call_soon_threadsafe(once)
