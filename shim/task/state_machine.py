"""The state of a container: its lock, its transitions, its record, and its state in runsc."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator

from shim.errors import CryoError, NotFound
from shim.host.shielded import shielded
from shim.model import TaskRef
from shim.runsc.client import Runsc
from shim.state import TaskState, move, require
from shim.task.exec_set import ExecSet
from shim.task.record_store import RecordStore

_log = logging.getLogger(__name__)
LIVE = (TaskState.RUNNING, TaskState.PAUSED)
_STARTED = ("running", "paused", "stopped")


class StateMachine:
    """The state of one container."""

    def __init__(
        self,
        runsc: Runsc,
        store: RecordStore,
        execs: ExecSet,
        command_s: float,
    ) -> None:
        """Take the execs, whose starts some operations block, and the timeout of runsc commands."""
        self.state = TaskState.CREATED
        self._ref = store.record.ref
        self._runsc = runsc
        self._store = store
        self._execs = execs
        self._command_s = command_s
        self._lock = asyncio.Lock()

    # -- moves ---------------------------------------------------------------------------------

    def move(self, new: TaskState) -> None:
        """Go to another state.

        Raises:
            Busy, IllegalState: there is no such move from this one.
        """
        self.state = move(self._ref.id, self.state, new)

    def require(self, *allowed: TaskState, verb: str) -> None:
        """Check the state.

        Raises:
            Busy: a checkpoint or restore is under way.
            IllegalState: any other state that is not allowed.
        """
        require(self._ref.id, self.state, *allowed, verb=verb)

    def require_not_exited(self) -> None:
        """Check that the container has not exited.

        Raises:
            NotFound: it has.
        """
        if self.state is TaskState.STOPPED:
            raise exited(self._ref)

    @contextlib.asynccontextmanager
    async def holding(
        self, *allowed: TaskState, verb: str, quiesce: bool = False
    ) -> AsyncIterator[None]:
        """Hold the container for one operation that needs one of these states.

        Short operations wait for each other; a checkpoint or restore is not waited for. With
        `quiesce` no exec is started meanwhile: stopping the container would interrupt its
        `runsc exec`.

        Raises:
            Busy: a checkpoint or restore is under way.
            IllegalState: any other state that is not allowed.
        """
        self.require(*allowed, verb=verb)
        async with self._lock:
            self.require(*allowed, verb=verb)
            async with self._execs.quiesced() if quiesce else contextlib.nullcontext():
                self.require(*allowed, verb=verb)
                yield

    @contextlib.asynccontextmanager
    async def locked(self) -> AsyncIterator[None]:
        """Hold the lock in any state."""
        async with self._lock:
            yield

    def run(self) -> None:
        """Go to `running`, unless the container has exited already."""
        if self.state is not TaskState.STOPPED:
            self.move(TaskState.RUNNING)

    def leave_checkpoint(self, before: TaskState) -> None:
        """Go back from a checkpoint, unless the container has exited in it."""
        if self.state is TaskState.CHECKPOINTING:
            self.move(before)

    def leave_restore(self) -> None:
        """Go back to `created` from a restore."""
        if self.state is TaskState.RESTORING:
            self.state = TaskState.CREATED

    # -- record and runsc ----------------------------------------------------------------------

    @property
    def recorded(self) -> TaskState:
        """Return the state that the record gives a container that has not exited."""
        record = self._store.record
        if not record.started:
            return TaskState.CREATED
        return TaskState.PAUSED if record.paused else TaskState.RUNNING

    @contextlib.asynccontextmanager
    async def changing(self) -> AsyncIterator[None]:
        """Let runsc start, pause or resume the container; on failure ask it for the state.

        The record is unsettled meanwhile, so the next owner asks as well.
        """
        try:
            yield
        except BaseException:
            # A few runsc commands, each with its own deadline.
            await shielded(self.settle(), deadline_s=4 * self._command_s)
            raise

    async def settle(self) -> None:
        """Ask runsc whether the container is started and paused, and record that."""
        try:
            await self._runsc.sentry.reconcile_pause(self._ref.id)
            status = await self._runsc.status(self._ref.id)
        except CryoError as error:
            _log.warning("task %s: %s", self._ref, error)
            return
        started, paused = status in _STARTED, status == "paused"
        self._store.try_update(started=started, paused=paused, unsettled=False)
        if self.state in (TaskState.CREATED, *LIVE):
            self.state = self.recorded

    async def check_paused(self) -> None:
        """Ask runsc whether a container recorded as paused, with nothing under way, is paused.

        A resume succeeds although it cannot be recorded, on a full disk.
        """
        if self._store.record.paused and self.state in LIVE:
            await self.settle()

    async def pause(self) -> None:
        """Pause the container; the caller holds its lock and changes its state."""
        self._store.update(unsettled=True)
        async with self.changing():
            await self._runsc.pause(self._ref.id)
        self._store.try_update(paused=True, unsettled=False)

    async def resume(self) -> None:
        """Resume the container if it is paused; the caller changes its state."""
        if self._store.record.unsettled:
            await self.settle()
        if not self._store.record.paused:
            return
        self._store.try_update(unsettled=True)
        async with self.changing():
            await self._runsc.resume(self._ref.id)
        self._store.try_update(paused=False, unsettled=False)


def exited(ref: TaskRef) -> NotFound:
    """Return the error for a task that has exited."""
    return NotFound(f"task {ref} has exited", remedy="delete it")
