"""The calls under way with each task: the last of all to be answered is its Delete.

When Delete has answered, containerd sends Shutdown, and closes its connection when the shim has, at
the latest after 3 s (waitShutdown in core/runtime/v2/shim.go). A call that has no answer by then
fails with "ttrpc: closed". It may be the Kill that ended the task: `runsc kill` exits after the
sandbox.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

from shim.model import TaskRef

# The task is gone, so that a call which still runs has failed or is about to.
_OTHERS_S = 2.0


class CallsUnderWay:
    """Counts calls by task."""

    def __init__(self) -> None:
        self._calls: dict[TaskRef, set[asyncio.Event]] = {}

    @contextlib.asynccontextmanager
    async def one(self, ref: TaskRef, *, last: bool) -> AsyncIterator[None]:
        """Hold a call with a task; `last` leaves only when the others have, or after 2 s."""
        left = asyncio.Event()
        calls = self._calls.setdefault(ref, set())
        calls.add(left)
        try:
            yield
            if last:
                await _all_left(calls - {left})
        finally:
            left.set()
            calls.discard(left)
            if not calls and self._calls.get(ref) is calls:
                del self._calls[ref]


async def _all_left(calls: set[asyncio.Event]) -> None:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_OTHERS_S):
            for call in calls:
                await call.wait()
