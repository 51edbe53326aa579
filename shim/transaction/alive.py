"""Work that needs a sandbox, and is cancelled when the sandbox exits."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from shim.errors import CryoError
from shim.host import procs
from shim.host.process_id import ProcessId

T = TypeVar("T")
# Work on a dead sandbox mostly fails by itself within moments, with a better message.
_GRACE_S = 1.0


def is_alive(sandbox: ProcessId) -> bool:
    """Whether the sandbox's process runs."""
    return procs.is_alive(sandbox.pid, sandbox.start)


async def if_alive(sandbox: ProcessId, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Run work that needs the sandbox, unless that is dead; if it exits first, that is no error."""
    if not is_alive(sandbox):
        return
    try:
        await unless_dead(sandbox, work())
    except CryoError:
        if is_alive(sandbox):
            raise


async def unless_dead(
    sandbox: ProcessId, work: Coroutine[Any, Any, T] | asyncio.Future[T]
) -> T | None:
    """Run work that needs the sandbox; if that exits first, cancel the work and return None."""
    task = asyncio.ensure_future(work)
    end = asyncio.ensure_future(procs.wait_pidfd(sandbox.pid, sandbox.start))
    try:
        await asyncio.wait({task, end}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            await asyncio.wait({task}, timeout=_GRACE_S)
        return task.result() if task.done() else None
    finally:
        end.cancel()
        if not task.done():
            task.cancel()
            await asyncio.wait({task})
