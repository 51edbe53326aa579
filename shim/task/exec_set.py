"""The execs of one container. None of their operations takes the container's lock."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from shim.errors import AlreadyExists, Busy, NotFound
from shim.model import Exit, ProcessView, Stdio
from shim.runsc.client import Runsc
from shim.state import TaskState, require
from shim.task.context import Context
from shim.task.execs import Exec
from shim.task.record import ExecRecord
from shim.task.record_store import RecordStore

_log = logging.getLogger(__name__)
Records = Mapping[str, ExecRecord]


class ExecSet:
    """The execs by their ids."""

    def __init__(
        self,
        context: Context,
        runsc: Runsc,
        store: RecordStore,
        folder: Path,
        state: Callable[[], TaskState],
        is_waiting: Callable[[], bool],
    ) -> None:
        """Take the record that lists them, and what returns the container's state.

        While the container `is_waiting` for the restore of its pod, an exec exits at once with
        success: the kubelet would kill a container whose postStart hook or probe fails.
        """
        self._context = context
        self._runsc = runsc
        self._store = store
        self._ref = store.record.ref
        self._folder = folder
        self._state = state
        self._is_waiting = is_waiting
        self._by_id: dict[str, Exec] = {}
        self._starting = 0
        self._barred = False
        self._idle = asyncio.Event()
        self._idle.set()

    @property
    def ids(self) -> tuple[str, ...]:
        """List the ids."""
        return tuple(sorted(self._by_id))

    def get(self, exec_id: str) -> Exec:
        """Find an added process.

        Raises:
            NotFound: there is no exec with that id.
        """
        if exec_id in self._by_id:
            return self._by_id[exec_id]
        message = f"task {self._ref} has no process {exec_id}"
        raise NotFound(message, remedy="'cryo tasks ls' lists its processes")

    def _records(self) -> dict[str, ExecRecord]:
        return {name: one.record for name, one in self._by_id.items()}

    def _note(self) -> None:
        """Record the execs, on disk if possible."""
        if self._state() is not TaskState.DELETED:
            execs = self._records()
            ran = self._store.record.exec_ran or any(one.runner_pid for one in execs.values())
            self._store.try_update(execs=execs, exec_ran=ran)

    def _make(self, exec_id: str, stdio: Stdio) -> Exec:
        return Exec(self._context, self._runsc, self._ref, exec_id, stdio, self._folder)

    def add(self, exec_id: str, process: Mapping[str, Any], stdio: Stdio) -> None:
        """Add a process; if its record cannot be written, the id stays free.

        Raises:
            IllegalState, Busy: the container is not running.
            AlreadyExists: the id is taken.
        """
        self._require_ready()
        if exec_id in self._by_id:
            message = f"task {self._ref} has a process {exec_id} already"
            raise AlreadyExists(message, remedy="choose another exec id, or delete that one")
        added = self._make(exec_id, stdio)
        added.write(process)
        self._store.update(execs={**self._records(), exec_id: added.record})
        self._by_id[exec_id] = added
        self._context.publish_event("/tasks/exec-added", self._ref, exec_id=exec_id)

    async def start(self, exec_id: str) -> int:
        """Run an added process; return its pid in the container.

        Raises:
            IllegalState: the container is not running.
            Busy: a pause or checkpoint of the container is under way or about to begin.
        """
        self._require_ready()
        if self._is_waiting():
            _log.info("task %s: exec %s is not run, it succeeds", self._ref, exec_id)
            return await self.get(exec_id).start(idle=True)
        if not self._store.record.exec_ran:
            self._store.try_update(exec_ran=True)  # first: this owner may be killed during it
        try:
            one = self.get(exec_id)
            async with self._start_under_way(exec_id):
                return await one.start()
        finally:
            self._note()

    def _require_ready(self) -> None:
        """Check that an exec can be added or started.

        Raises:
            IllegalState, Busy: the container is not running.
        """
        if not self._is_waiting():
            require(self._ref.id, self._state(), TaskState.RUNNING, verb="exec in")

    @contextlib.asynccontextmanager
    async def _start_under_way(self, exec_id: str) -> AsyncIterator[None]:
        if self._barred:
            message = (
                f"cannot start process {exec_id}: task {self._ref} is being paused or checkpointed"
            )
            raise Busy(message, remedy="try again when its pause or checkpoint is over")
        self._starting += 1
        self._idle.clear()
        try:
            yield
        finally:
            self._starting -= 1
            if not self._starting:
                self._idle.set()

    @contextlib.asynccontextmanager
    async def quiesced(self) -> AsyncIterator[None]:
        """Refuse new starts, and wait for those under way, each of which has a deadline."""
        self._barred = True
        try:
            await self._idle.wait()
            yield
        finally:
            self._barred = False

    async def delete(self, exec_id: str) -> ProcessView:
        """Remove an exited process; return its last view."""
        one = self.get(exec_id)
        await one.delete()
        if self._by_id.get(exec_id) is one:
            del self._by_id[exec_id]
        last = one.view(self._store.record.bundle)
        self._note()
        return last

    async def end_with_sandbox(self, at: datetime) -> None:
        """Publish the exits of all that ran when the sandbox exited, concurrently."""
        await asyncio.gather(*(one.ended_with_sandbox(at) for one in list(self._by_id.values())))

    def set_exited(self, exit_: Exit) -> None:
        """End the waits for processes that were never started: their task is removed."""
        for one in self._by_id.values():
            one.process.set_exited(exit_)

    def detach(self) -> None:
        """Stop watching: the owner exits, the processes keep running."""
        for one in self._by_id.values():
            one.detach()

    async def adopt(self, records: Records) -> None:
        """Adopt the execs that an earlier owner added and started."""
        for name, record in records.items():
            one = self._by_id[name] = self._make(name, record.stdio)
            await one.adopt(record)
