"""The operations under way, by the sandbox that they work on: what a stop waits for, a KILL ends.

Each runs in an asyncio task of its own. A caller who leaves cancels it and waits for its rollback.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from dataclasses import dataclass
from typing import Any, TypeVar

from shim.errors import IllegalState
from shim.host.shielded import ended
from shim.model import TaskRef

T = TypeVar("T")


@dataclass(eq=False, slots=True)
class _Running:
    work: asyncio.Task[Any]
    sandbox: TaskRef | None
    what: str
    killed: bool = False


class Transactions:
    """Runs operations, and cancels those whose sandbox is to be killed."""

    def __init__(self) -> None:
        """Begin with none."""
        self._running: set[_Running] = set()

    async def run(
        self, work: Coroutine[Any, Any, T], what: str, *, sandbox: TaskRef | None = None
    ) -> T:
        """Run an operation; one that names its sandbox can be interrupted by a KILL of that.

        Work that was cancelled too late, and is done all the same, returns its result.

        Raises:
            IllegalState: the task was killed meanwhile.
        """
        task = asyncio.create_task(work, name=what)
        entry = _Running(task, sandbox, what)
        self._running.add(entry)
        task.add_done_callback(lambda _: self._running.discard(entry))
        try:
            return await asyncio.shield(task)
        except BaseException:  # noqa: BLE001 - its own error, or the caller has left
            task.cancel()
            await ended(task)
            if not entry.killed or _succeeded(task):
                return task.result()
            raise _killed(entry) from None

    def interrupt(self, sandbox: TaskRef) -> set[asyncio.Task[Any]]:
        """Cancel what is under way with a sandbox, once each; return what still rolls back."""
        found = {entry for entry in self._running if entry.sandbox == sandbox}
        for entry in found:
            if not entry.killed:
                entry.killed = True
                entry.work.cancel()
        return {entry.work for entry in found}

    async def finish(self, timeout_s: float) -> None:
        """Wait for all; cancel those that take longer, and wait for their rollbacks."""
        if not self._running:
            return
        _, late = await asyncio.wait({one.work for one in self._running}, timeout=timeout_s)
        for work in late:
            work.cancel()
        for work in late:
            await ended(work)


def _succeeded(work: asyncio.Task[Any]) -> bool:
    return not work.cancelled() and work.exception() is None


def _killed(entry: _Running) -> IllegalState:
    message = f"task {entry.sandbox} was killed during the {entry.what}"
    return IllegalState(message, remedy="delete it, and create or restore it anew")
