"""What a checkpoint does to a running sandbox: resume it, freeze its CUDA processes, undo both."""

from __future__ import annotations

import time

from shim.errors import CryoError
from shim.model import Phase
from shim.transaction.alive import if_alive
from shim.transaction.execs import ExecCheck
from shim.transaction.save_idle import wait_for_save_idle
from shim.transaction.saving import Saving
from shim.transaction.steps import Steps
from shim.transaction.target import CheckpointTarget
from shim.transaction.transaction import Transaction


class Freezing:
    """The freeze of one sandbox; those of a parked task are frozen already, and stay so.

    `unthawed` is why a process could not be thawed after the save: only the image has it whole.
    `frozen_s` is how long the task stood still.
    """

    def __init__(
        self, target: CheckpointTarget, transaction: Transaction, saving: Saving, execs: ExecCheck
    ) -> None:
        self._target = target
        self._transaction = transaction
        self._saving = saving
        self._execs = execs
        # What there is to thaw, and whether there is a pause to restore.
        self._frozen: Steps | None = None
        self._resumed = False
        self._waits_for_save = False
        self.unthawed: CryoError | None = None
        self._began_s: float | None = None
        self.frozen_s = 0.0

    @property
    def thawed(self) -> bool:
        """Whether no process is frozen, by this checkpoint or by a park."""
        return self._frozen is None

    def begin(self) -> None:
        """Note that the task stands still from now on, if it does not already."""
        if self._began_s is None:
            self._began_s = time.monotonic()

    def end(self) -> None:
        """Note that it runs again, or that its save is over."""
        if self._began_s is not None:
            self.frozen_s = round(time.monotonic() - self._began_s, 6)

    @property
    def _parked(self) -> bool:
        return self._target.journal.entry.from_park

    async def resume(self) -> None:
        """Resume what is paused for the CUDA steps: in a paused sandbox nothing can be executed."""
        for paused in self._target.paused_ids:
            self._resumed = True
            await self._target.runsc.resume(paused)

    async def freeze(self, steps: Steps) -> None:
        """Freeze every CUDA process, also those that began since the last look.

        Raises:
            CryoError: why one could not be frozen.
        """
        self._frozen = steps
        if self._parked:
            return
        self.begin()
        with self._transaction.step(Phase.FREEZE):
            await steps.engine.freeze()
            known = steps.processes.known
            self._target.journal.processes(known)
            if not self._execs.covers(known):
                await self._execs.look(known, paused=False)

    async def thaw(self) -> None:
        """Let the task continue after its save; see `unthawed` for whether it does."""
        if self._frozen is not None and not self._parked:
            with self._transaction.step(Phase.THAW):
                self.unthawed = await self._thaw(self._frozen)
        await self._pause_again()
        if self.unthawed is None:
            self._frozen = None

    async def thaw_failed_save(self) -> None:
        """Thaw what runsc's own steps have frozen before a save that failed, for the next save.

        Raises:
            CryoError: why a process could not be thawed.
        """
        if self._frozen is not None and self._frozen.engine.save_path:
            exec_processes = self._target.journal.entry.exec_processes
            await wait_for_save_idle(self._target, "", exec_processes)
            await self._frozen.engine.undo()

    async def _thaw(self, steps: Steps) -> CryoError | None:
        """Thaw; if that fails, in the slower way of a rollback. Return why neither succeeded."""
        try:
            await steps.engine.thaw()
        except CryoError as first:
            try:
                await steps.engine.undo()
            except CryoError:
                # The first failure is the cause: after it the driver only says that it failed.
                return self._saving.unthawed or first
        return None

    async def _pause_again(self) -> None:
        if self._resumed:
            for paused in self._target.paused_ids:
                await self._target.runsc.pause(paused)
            self._resumed = False

    # -- undoing -------------------------------------------------------------------------------

    async def undo(self) -> None:
        """Make the task run as before, unless its sandbox is dead.

        Raises:
            CryoError: what could not be undone.
        """
        await if_alive(self._target.sandbox, self._undo)

    async def _undo(self) -> None:
        entry = self._target.journal.entry
        # A parked task was not touched before its save began.
        if self._frozen is not None and (entry.save_pid or not entry.from_park):
            # After a failure the sentry keeps the files open until it collects garbage, for
            # minutes: a save that runsc has answered is over. Before a save there are none.
            writing = bool(entry.save_pid) and not self._saving.answered
            staging = entry.staging if writing else ""
            device = entry.stage_device if writing else 0
            self._waits_for_save = True
            await wait_for_save_idle(self._target, staging, entry.exec_processes, device=device)
            self._waits_for_save = False
            await self._frozen.engine.undo()
        await self._pause_again()

    def held_up(self) -> str:
        """Name what a rollback that is late waits for."""
        if self._waits_for_save:
            return "the sandbox has not finished its save"
        return self._frozen.processes.unfinished() if self._frozen else ""
