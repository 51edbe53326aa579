"""Moves the CUDA processes of one container all at once, by cryo-cuda.

One run of it in the sandbox finds the processes, one freezes and one thaws them. As with
`StepMover` only processes that are in the journal are moved, and each state is read back. Where
cryo-cuda turns out to be unusable in a container, `StepMover` takes over at that step: both read
the states first.
"""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable, Iterator

from shim import failpoints
from shim.cuda.batch import BatchOutput, Helper, Move
from shim.cuda.moves import PHASE, Action, limit_s
from shim.cuda.step_mover import StepMover
from shim.cuda.tool import STUCK, move_error
from shim.errors import CryoError, CudaError, DeadlineExceeded, Unavailable
from shim.model import CudaState

_TOOL = "cryo-cuda"
_LOOK = "state"


class BatchMover:
    """One run of cryo-cuda for all processes, or `steps` once it has turned out to be unusable."""

    def __init__(self, steps: StepMover, helper: Helper) -> None:
        self.table = steps.table
        self._steps = steps
        self._timeouts = steps.timeouts
        self._helper: Helper | None = helper

    @property
    def tool_path(self) -> str:
        """Return the path of its program in the container."""
        return self._helper.path if self._helper else self._steps.tool_path

    async def find(self) -> list[int]:
        """Find CUDA processes; return those not known before.

        Raises:
            CryoError: as `StepMover.find`.
        """
        if self._helper is None:
            return await self._steps.find()
        try:
            with _around():
                scan, found = await self._helper.find(detect_s=self._timeouts.detect)
        except Unavailable as error:
            self._fall_back(error)
            return await self._steps.find()
        table = self.table
        table.last_scan = scan
        table.note_names(scan.holders)
        for move in found.moves:
            if move.late and move.pid not in table.states:
                raise table.with_label(move.pid, self._failure(move))
        fresh = table.add(scan.holders, found.states())
        table.note_others(scan)
        return fresh

    async def refresh(self) -> list[CryoError]:
        """Read every known process's state; forget those that exited, return what went wrong."""
        helper, pids = self._helper, list(self.table.known)
        if helper is None or not pids:
            return await self._steps.refresh()
        try:
            found = await self._run(
                "look at", pids, lambda: helper.states(pids, detect_s=self._timeouts.detect)
            )
        except CryoError as error:
            return await self._unless_gone(error)
        return await self._steps.refresh() if found is None else await self._take_in(found)

    async def move(self, action: Action, state: CudaState) -> list[CryoError]:
        """Do a single move, which cryo-cuda has no command for; return what went wrong."""
        return await self._steps.move(action, state)

    async def freeze(self) -> bool | None:
        """Lock all known processes, then checkpoint all; return whether there is no other one.

        None: cryo-cuda is unusable here, or its output was lost.

        Raises:
            CudaError: a process failed.
            DeadlineExceeded: one did not get there in time; the message names it.
        """
        table, helper, times = self.table, self._helper, self._timeouts
        table.check_none_failed()
        if helper is None:
            return None
        pids = list(table.states)
        if not pids:  # all of them have exited meanwhile
            return not await self.find()
        table.announce(Action.LOCK, len(pids))
        for pid in pids:
            table.write(pid, "freezing", must=True)
        found = await self._run(
            "freeze",
            pids,
            lambda: helper.freeze(
                pids, detect_s=times.detect, lock_s=times.lock, freeze_s=times.freeze
            ),
            Action.LOCK,
            Action.CHECKPOINT,
        )
        if found is None:
            return None
        failures = await self._take_in(found)
        if failures:
            raise failures[0]
        table.note_names(found.holders)
        fresh = table.add(found.holders, found.states())
        return not fresh and set(table.states.values()) <= {CudaState.CHECKPOINTED}

    async def thaw(self) -> list[CryoError] | None:
        """Restore all known processes, then unlock all; return what went wrong.

        None: cryo-cuda is unusable here, or its output was lost.
        """
        table, helper, times = self.table, self._helper, self._timeouts
        pids = list(table.known)
        if helper is None or not pids:
            return None
        table.announce(Action.RESTORE, len(pids))
        for pid in pids:
            table.write(pid, "thawing")
        devices = self._steps.device_map
        try:
            found = await self._run(
                "thaw",
                pids,
                lambda: helper.thaw(
                    pids, detect_s=times.detect, thaw_s=times.thaw, device_map=devices
                ),
                Action.RESTORE,
                Action.UNLOCK,
            )
        except CryoError as error:
            failures = await self._unless_gone(error)
        else:
            if found is None:
                return None
            failures = await self._take_in(found)
        return [*failures, *(table.not_thawed(pid) for pid in table.not_running())]

    # -- one run -------------------------------------------------------------------------------

    async def _run(
        self,
        verb: str,
        pids: list[int],
        work: Callable[[], Awaitable[BatchOutput]],
        *actions: Action,
    ) -> BatchOutput | None:
        """Run cryo-cuda; None where it turns out to be unusable.

        Raises:
            DeadlineExceeded: it exited neither by its own timeouts nor by ours.
            CudaError: it exited early.
        """
        try:
            with _around(*actions):
                return await work()
        except Unavailable as error:
            self._fall_back(error)
            return None
        except DeadlineExceeded as error:
            names = ", ".join(self.table.label(pid) for pid in pids)
            message = f"{_TOOL} did not {verb} the processes {names} in time"
            raise DeadlineExceeded(message, remedy=STUCK) from error

    def _fall_back(self, error: CryoError) -> None:
        self._helper = None
        self.table.warn(f"{error.message}; going on with cuda-checkpoint")

    async def _unless_gone(self, error: CryoError) -> list[CryoError]:
        """Forget processes that exited, as with a container; return the error if one is left."""
        for pid in list(self.table.known):
            if not await self._steps.guest.has(pid):
                self.table.forget(pid)
        return [error] if self.table.known else []

    async def _take_in(self, found: BatchOutput) -> list[CryoError]:
        """Note the outcome for each known process; return what went wrong."""
        table, failures = self.table, list[CryoError]()
        for move in found.moves:
            if move.pid not in table.known:
                continue
            if move.state is not None:
                if move.step == _LOOK:
                    table.update(move.pid, move.state)
                else:
                    phase = PHASE[Action(move.step)]
                    table.update(move.pid, move.state, phase=phase, took_s=move.took_s)
            error = self._error(move)
            if error is None:
                continue
            if move.gone or not await self._steps.guest.has(move.pid):
                table.forget(move.pid)
                continue
            failures.append(table.with_label(move.pid, error))
        return failures

    def _error(self, move: Move) -> CryoError | None:
        """Return the error of a move; None where it went well."""
        if not move.ok:
            return self._failure(move)
        if move.step != _LOOK:
            return self.table.wrong_state(Action(move.step), move.pid, move.state)
        return self.table.not_thawed(move.pid) if move.state is CudaState.FAILED else None

    def _failure(self, move: Move) -> CryoError:
        if move.late:
            looking = move.step == _LOOK
            timeouts = self._timeouts
            after_s = timeouts.detect if looking else limit_s(Action(move.step), timeouts)
            message = f"{_TOOL} {move.step} on process {move.pid} did not end in {after_s:g} s"
            return DeadlineExceeded(message, remedy=STUCK)
        if move.step == _LOOK:
            message = f"process {move.pid} no longer answers {_TOOL}: {move.reason}"
            remedy = "look at its log; its GPU state may be lost"
            return CudaError(message, pid=move.pid, remedy=remedy)
        return move_error(Action(move.step), move.pid, move.reason, tool=_TOOL)


@contextlib.contextmanager
def _around(*actions: Action) -> Iterator[None]:
    """Reach the failpoints of all that one run does, for its steps cannot be observed."""
    with contextlib.ExitStack() as stack:
        stack.enter_context(failpoints.around("cuda.get-state"))
        for action in actions:
            stack.enter_context(failpoints.around(f"cuda.{action}"))
        yield
