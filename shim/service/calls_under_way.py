"""Tracks the calls under way for each task, so that its Delete returns last.

After Delete, containerd sends Shutdown, and closes its connection when the shim does, after 3 s at
the latest (waitShutdown in core/runtime/v2/shim.go). A call without a response by then fails with
"ttrpc: closed". That can be the Kill that ended the task: `runsc kill` exits after the sandbox.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

from shim.model import TaskRef

# The task no longer exists, so a call that still runs fails soon.
_OTHERS_S = 2.0


class CallsUnderWay:
    """Counts calls by task."""

    def __init__(self) -> None:
        self._calls: dict[TaskRef, set[asyncio.Event]] = {}

    @contextlib.asynccontextmanager
    async def one(self, ref: TaskRef, *, last: bool) -> AsyncIterator[None]:
        """Count a call for a task; with `last`, exit only after the others, or after 2 s."""
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
