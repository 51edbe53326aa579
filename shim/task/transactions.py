"""The operations under way, by sandbox: a stop waits for them, a KILL cancels them.

Each runs in an asyncio task of its own. A cancelled caller cancels it and waits for its rollback.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from dataclasses import dataclass
from typing import Any, TypeVar

from shim.errors import IllegalState
from shim.host.shielded import ended, succeeded
from shim.model import TaskRef

T = TypeVar("T")


@dataclass(eq=False, slots=True)
class _Running:
    work: asyncio.Task[Any]
    sandbox: TaskRef | None
    what: str
    only: TaskRef | None = None
    killed: bool = False

    def is_of(self, task: TaskRef, sandbox: TaskRef) -> bool:
        """Whether a KILL of a task interrupts it."""
        return self.sandbox == sandbox and (self.only is None or task in (self.only, sandbox))


class Transactions:
    """Runs operations, and cancels those whose sandbox is to be killed."""

    def __init__(self) -> None:
        """Begin with none."""
        self._running: set[_Running] = set()

    async def run(
        self,
        work: Coroutine[Any, Any, T],
        what: str,
        *,
        sandbox: TaskRef | None = None,
        only: TaskRef | None = None,
    ) -> T:
        """Run an operation; one with a `sandbox` can be interrupted by a KILL of that.

        A KILL of another task of the sandbox interrupts it too, unless `only` excludes it.

        Work that completes despite its cancellation returns its result.

        Raises:
            IllegalState: the task was killed meanwhile.
        """
        task = asyncio.create_task(work, name=what)
        entry = _Running(task, sandbox, what, only)
        self._running.add(entry)
        task.add_done_callback(lambda _: self._running.discard(entry))
        try:
            return await asyncio.shield(task)
        except BaseException:  # noqa: BLE001 - its own error, or the caller was cancelled
            task.cancel()
            await ended(task)
            if not entry.killed or succeeded(task):
                return task.result()
            raise _killed(entry) from None

    def interrupt(self, task: TaskRef, sandbox: TaskRef) -> set[asyncio.Task[Any]]:
        """Cancel the operations on a task and its sandbox, once each; return those.

        A sandbox is named by its own task.
        """
        found = {entry for entry in self._running if entry.is_of(task, sandbox)}
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


def _killed(entry: _Running) -> IllegalState:
    message = f"task {entry.sandbox} was killed during the {entry.what}"
    return IllegalState(message, remedy="delete it, and create or restore it again")
