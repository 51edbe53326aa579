"""Work that runs to completion although its caller is cancelled, with an enforced deadline."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any, TypeVar

from shim.errors import DeadlineExceeded

T = TypeVar("T")
_log = logging.getLogger(__name__)

# How long work that was cancelled at its deadline may take to clean up.
GRACE_S = 5.0
_REMEDY = "check for a filesystem or a device that hangs; then retry"

# Work still running after its grace, referenced here so that it is not garbage-collected.
_left: set[asyncio.Future[Any]] = set()


async def shielded(
    work: Coroutine[Any, Any, T] | asyncio.Future[T],
    *,
    deadline_s: float | None,
    doing: str = "",
    grace_s: float = GRACE_S,
) -> T:
    """Run work to completion, however often the caller is cancelled; return its result.

    A cancellation is raised again once the work has ended, unless the work failed: then its error
    is raised instead. At the deadline the work itself is cancelled. `doing` names the work in
    messages; the default is the name of the coroutine.

    Raises:
        DeadlineExceeded: the work did not end within `deadline_s`.
        asyncio.CancelledError: the caller was cancelled, and the work has ended.
    """
    name = doing or getattr(work, "__qualname__", "") or str(work)
    task = asyncio.ensure_future(work)
    cancelled = await ended(task, deadline_s)
    if not task.done():
        task.cancel()
        cancelled = await ended(task, grace_s) or cancelled
        raise _late(task, name, deadline_s) from cancelled
    if cancelled is not None and succeeded(task):
        raise cancelled
    return task.result()


async def ended(
    task: asyncio.Future[Any], timeout_s: float | None = None
) -> asyncio.CancelledError | None:
    """Wait for a task or the timeout, and raise nothing; the result is in the task.

    Returns the last cancellation of the caller, which the caller must raise again.
    """
    loop = asyncio.get_running_loop()
    until_s = None if timeout_s is None else loop.time() + timeout_s
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        left_s = None if until_s is None else until_s - loop.time()
        if left_s is not None and left_s <= 0:
            break
        try:
            await asyncio.wait({task}, timeout=left_s)
        except asyncio.CancelledError as error:
            cancelled = error
    return cancelled


def succeeded(task: asyncio.Future[Any]) -> bool:
    """Return whether a task has ended with a result."""
    return task.done() and not task.cancelled() and task.exception() is None


def _late(task: asyncio.Future[Any], name: str, deadline_s: float | None) -> DeadlineExceeded:
    """Return the error for work past its deadline; if it still runs, its failure is logged."""
    message = f"{name} did not end in {deadline_s:g} s"
    if task.done():
        _log_error(task, name)
        return DeadlineExceeded(message, remedy=_REMEDY)
    _left.add(task)
    task.add_done_callback(_left.discard)
    task.add_done_callback(lambda ended: _log_error(ended, name))
    _log.error("%s, and still runs although it was cancelled", message)
    return DeadlineExceeded(f"{message}, and still runs although it was cancelled", remedy=_REMEDY)


def _log_error(task: asyncio.Future[Any], name: str) -> None:
    """Log the failure of work whose caller has already got a DeadlineExceeded."""
    if not task.cancelled() and (error := task.exception()) is not None:
        _log.warning("%s failed after its deadline: %s", name, error)
