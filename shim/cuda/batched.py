"""The CUDA processes of one container, moved all at once by cryo-cuda.

One run of a program in the sandbox looks, one freezes and one thaws, where `Processes` makes one
per process and move. The rules are the same: each process is written down before it is moved, only
those are moved that were, and each move is read back. Where cryo-cuda cannot be used in a
container, cuda-checkpoint takes over, at whatever step that shows: both read the states first.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable

from shim.config import Timeouts
from shim.cuda.batch import Found, Helper, Move
from shim.cuda.detect import Holder, Scan
from shim.cuda.guest import Guest
from shim.cuda.moves import AFTER, Action
from shim.cuda.processes import PHASE, ROUNDS, Processes, Record
from shim.cuda.tool import STUCK, CudaTool, refusal
from shim.errors import CryoError, CudaError, DeadlineExceeded, Unavailable
from shim.model import CudaState, Phase, Progress, Report

_TOOL = "cryo-cuda"
_LOOK = "state"


class Batched(Processes):
    """As `Processes`, by few runs of cryo-cuda."""

    def __init__(
        self,
        helper: Helper,
        guest: Guest,
        tool: CudaTool,
        timeouts: Timeouts,
        report: Report,
        record: Record,
    ) -> None:
        super().__init__(guest, tool, timeouts, report, record)
        self._helper: Helper | None = helper

    @property
    def helper_path(self) -> str:
        """Return where cryo-cuda is in the container, empty once it turned out to be of no use."""
        return self._helper.path if self._helper else ""

    async def find(self) -> list[int]:
        """Look for CUDA processes; return those not known before."""
        if self._helper is None:
            return await super().find()
        try:
            scan, found = await self._helper.find(detect_s=self._timeouts.detect)
        except Unavailable as error:
            self._do_without(error)
            return await super().find()
        return self._take_in(scan, found)

    def _take_in(self, scan: Scan, found: Found) -> list[int]:
        self.last_scan = scan
        self._names.update({holder.pid: holder.name for holder in scan.holders})
        for move in found.moves:
            if move.late and move.pid not in self.states:
                raise self._named(move.pid, self._failure(move))
        fresh = self._fresh(scan.holders, found)
        self._note_bystanders(scan, fresh)
        return [holder.pid for holder in fresh]

    def _fresh(self, holders: Iterable[Holder], found: Found) -> list[Holder]:
        """Take those in hand that have CUDA state and were not known."""
        states = found.states()
        fresh = [h for h in holders if h.pid in states and h.pid not in self.states]
        for holder in fresh:
            self._learn(holder, states[holder.pid])
        return fresh

    async def freeze(self) -> None:
        """Lock all, then checkpoint all, until a look finds no CUDA process left running.

        Raises:
            CudaError: a process failed, or new ones keep appearing.
            DeadlineExceeded: one held it up; the message names it.
        """
        for _ in range(ROUNDS):
            self._none_failed()
            if self._helper is None:
                await super().freeze()
                return
            if await self._freeze_once(self._helper):
                return
        message = "CUDA processes keep appearing: the container starts them faster than they freeze"
        raise CudaError(message, remedy="checkpoint when the workload has settled")

    async def _freeze_once(self, helper: Helper) -> bool:
        """Freeze those that are known; return whether that is all of them."""
        times, pids = self._timeouts, list(self.states)
        if not pids:  # all of them have ended meanwhile
            return not await self.find()
        self._announce(Action.LOCK, pids)
        for pid in pids:
            self._write_down(pid, "freezing", must=True)
        found = await self._ask(
            "freeze",
            pids,
            lambda: helper.freeze(
                pids, detect_s=times.detect, lock_s=times.lock, freeze_s=times.freeze
            ),
        )
        if found is None:
            return False
        failures = await self._hear(found)
        if failures:
            raise failures[0]
        self._names.update({holder.pid: holder.name for holder in found.holders})
        fresh = self._fresh(found.holders, found)
        return not fresh and set(self.states.values()) <= {CudaState.CHECKPOINTED}

    async def thaw(self) -> None:
        """Bring every known process back to running; one that cannot be does not stop the others.

        Raises:
            CudaError, DeadlineExceeded, ResourceExhausted: the first that did not come back.
        """
        helper, times, pids = self._helper, self._timeouts, list(self.known)
        found = None
        if helper is not None and pids:
            self._announce(Action.RESTORE, pids)
            for pid in pids:
                self._write_down(pid, "thawing")
            found = await self._ask(
                "thaw",
                pids,
                lambda: helper.thaw(
                    pids, detect_s=times.detect, thaw_s=times.thaw, device_map=self.device_map
                ),
            )
        if found is None:
            await super().thaw()
            return
        failures = await self._hear(found)
        if failures:
            raise failures[0]
        for pid, state in self.states.items():
            if state is not CudaState.RUNNING:
                raise self._not_running(pid, state)

    async def refresh(self) -> list[CryoError]:
        """Read every known process's state; forget those that are gone, return what went wrong."""
        helper, pids = self._helper, list(self.known)
        if helper is None or not pids:
            return await super().refresh()
        try:
            found = await self._ask(
                "look at", pids, lambda: helper.states(pids, detect_s=self._timeouts.detect)
            )
        except (CudaError, DeadlineExceeded) as error:
            return [error]
        return await super().refresh() if found is None else await self._hear(found)

    async def _ask(
        self, verb: str, pids: list[int], run: Callable[[], Awaitable[Found]]
    ) -> Found | None:
        """Run cryo-cuda; None where it turns out that it cannot be used.

        Raises:
            DeadlineExceeded: it ended neither by its own deadlines nor by ours.
            CudaError: it broke off.
        """
        try:
            return await run()
        except Unavailable as error:
            self._do_without(error)
            return None
        except DeadlineExceeded as error:
            who = ", ".join(self._label(pid) for pid in pids)
            message = f"{_TOOL} did not {verb} the processes {who} in time"
            raise DeadlineExceeded(message, remedy=STUCK) from error

    def _do_without(self, error: CryoError) -> None:
        self._helper = None
        message = f"{error.message}; going on with cuda-checkpoint"
        self._report(Progress(phase=Phase.DETECT, message=message, warning=True))

    def _announce(self, action: Action, pids: list[int]) -> None:
        noun = "process" if len(pids) == 1 else "processes"
        message = f"{action} {len(pids)} {noun}"
        self._report(Progress(phase=PHASE[action], message=message))

    async def _hear(self, found: Found) -> list[CryoError]:
        """Take note of what became of the processes that are known; return what went wrong."""
        failures: list[CryoError] = []
        for move in found.moves:
            if move.pid not in self.known:
                continue
            if move.state is not None:
                self._see(move.pid, move.state, move.step)
            error = self._judge(move)
            if error is None:
                continue
            if move.gone or not await self._exists(move.pid):
                self._forget(move.pid)
                continue
            failures.append(self._named(move.pid, error))
        return failures

    def _see(self, pid: int, state: CudaState, step: str) -> None:
        phase = Phase.DETECT if step == _LOOK else PHASE[Action(step)]
        self.states[pid] = state
        self._write_down(pid, state)
        self._report(Progress(phase=phase, pid=pid, pid_state=state))

    def _judge(self, move: Move) -> CryoError | None:
        """Return what is wrong with a move, None when nothing is."""
        if not move.ok:
            return self._failure(move)
        if move.step == _LOOK:
            return self._not_running(move.pid, CudaState.FAILED) if _is_lost(move) else None
        wanted = AFTER[Action(move.step)]
        if move.state is wanted:
            return None
        what = move.state or "without a state"
        message = f"process {move.pid} is {what} after {move.step}, not {wanted}"
        remedy = "check the driver and cuda-checkpoint versions"
        return CudaError(message, pid=move.pid, remedy=remedy)

    def _failure(self, move: Move) -> CryoError:
        if move.late:
            what = "state" if move.step == _LOOK else move.step
            message = f"{_TOOL}: the {what} of process {move.pid} did not come in time"
            return DeadlineExceeded(message, remedy=STUCK)
        if move.step == _LOOK:
            message = f"process {move.pid} no longer answers {_TOOL}: {move.words}"
            remedy = "look at its log; its GPU state may be lost"
            return CudaError(message, pid=move.pid, remedy=remedy)
        return refusal(Action(move.step), move.pid, move.words, tool=_TOOL)


def _is_lost(move: Move) -> bool:
    return move.state is CudaState.FAILED
