"""The CUDA processes of one container, moved all at once by cryo-cuda.

One run of a program in the sandbox looks, one freezes and one thaws, where `Processes` makes one
per process and move. The rules are the same: each process is written down before it is moved, only
those are moved that were, and each move is read back. Where cryo-cuda cannot be used in a
container, cuda-checkpoint takes over, at whatever step that shows: both read the states first.
"""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable, Iterable, Iterator

from shim import points
from shim.config import Timeouts
from shim.cuda.batch import Found, Helper, Move
from shim.cuda.detect import Holder, Scan
from shim.cuda.guest import Guest
from shim.cuda.moves import AFTER, Action
from shim.cuda.processes import PHASE, TIMEOUT, Processes, Record
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
        *,
        container: str = "",
        may_ask: bool = True,
    ) -> None:
        """Take what `Processes` takes, and cryo-cuda."""
        super().__init__(
            guest, tool, timeouts, report, record, container=container, may_ask=may_ask
        )
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
            with _around():
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

    async def freeze_at_once(self) -> bool | None:
        """Lock all that are known, then checkpoint all; return whether a look finds no other.

        None: nothing was done, for cryo-cuda cannot be used here.

        Raises:
            CudaError: a process failed.
            DeadlineExceeded: one held it up; the message names it.
        """
        self.check_none_failed()
        helper, times, pids = self._helper, self._timeouts, list(self.states)
        if helper is None:
            return None
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
            (Action.LOCK, Action.CHECKPOINT),
        )
        if found is None:
            return None
        failures = await self._hear(found)
        if failures:
            raise failures[0]
        self._names.update({holder.pid: holder.name for holder in found.holders})
        fresh = self._fresh(found.holders, found)
        return not fresh and set(self.states.values()) <= {CudaState.CHECKPOINTED}

    async def thaw_at_once(self) -> bool:
        """Bring every known process back to running; one that cannot be does not stop the others.

        Return whether it was done: not where cryo-cuda cannot be used.

        Raises:
            CudaError, DeadlineExceeded, ResourceExhausted: the first that did not come back.
        """
        helper, times, pids = self._helper, self._timeouts, list(self.known)
        if helper is None or not pids:
            return False
        self._announce(Action.RESTORE, pids)
        for pid in pids:
            self._write_down(pid, "thawing")
        try:
            found = await self._ask(
                "thaw",
                pids,
                lambda: helper.thaw(
                    pids, detect_s=times.detect, thaw_s=times.thaw, device_map=self.device_map
                ),
                (Action.RESTORE, Action.UNLOCK),
            )
        except CryoError as error:
            failures = await self._unless_gone(error)
        else:
            if found is None:
                return False
            failures = await self._hear(found)
        failures += [self._not_running(*one) for one in self.not_running().items()]
        if failures:
            raise failures[0]
        return True

    async def refresh(self) -> list[CryoError]:
        """Read every known process's state; forget those that are gone, return what went wrong."""
        helper, pids = self._helper, list(self.known)
        if helper is None or not pids:
            return await super().refresh()
        try:
            found = await self._ask(
                "look at", pids, lambda: helper.states(pids, detect_s=self._timeouts.detect)
            )
        except CryoError as error:
            return await self._unless_gone(error)
        return await super().refresh() if found is None else await self._hear(found)

    async def _unless_gone(self, error: CryoError) -> list[CryoError]:
        """Forget who is gone, as with a whole container; return the error where anybody is left."""
        for pid in list(self.known):
            if not await self._exists(pid):
                self._forget(pid)
        return [error] if self.known else []

    async def _ask(
        self,
        verb: str,
        pids: list[int],
        run: Callable[[], Awaitable[Found]],
        actions: tuple[Action, ...] = (),
    ) -> Found | None:
        """Run cryo-cuda; None where it turns out that it cannot be used.

        Raises:
            DeadlineExceeded: it ended neither by its own deadlines nor by ours.
            CudaError: it broke off.
        """
        try:
            with _around(actions):
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
        where = f" of {self.container}" if self.container else ""
        message = f"{action} {len(pids)} {noun}{where}"
        self._report(Progress(phase=PHASE[action], message=message))

    async def _hear(self, found: Found) -> list[CryoError]:
        """Take note of what became of the processes that are known; return what went wrong."""
        failures: list[CryoError] = []
        for move in found.moves:
            if move.pid not in self.known:
                continue
            if move.state is not None:
                self._see(move, move.state)
            error = self._judge(move)
            if error is None:
                continue
            if move.gone or not await self._exists(move.pid):
                self._forget(move.pid)
                continue
            failures.append(self._named(move.pid, error))
        return failures

    def _see(self, move: Move, state: CudaState) -> None:
        self.states[move.pid] = state
        self._write_down(move.pid, state)
        self._report(
            Progress(
                phase=Phase.DETECT if move.step == _LOOK else PHASE[Action(move.step)],
                pid=move.pid,
                pid_state=state,
                container=self.container,
                took_s=0.0 if move.step == _LOOK else move.took_s,
            )
        )

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
            limit_s = self._limit_s(move.step)
            message = f"{_TOOL} {move.step} on process {move.pid} did not end in {limit_s:g} s"
            return DeadlineExceeded(message, remedy=STUCK)
        if move.step == _LOOK:
            message = f"process {move.pid} no longer answers {_TOOL}: {move.words}"
            remedy = "look at its log; its GPU state may be lost"
            return CudaError(message, pid=move.pid, remedy=remedy)
        return refusal(Action(move.step), move.pid, move.words, tool=_TOOL)

    def _limit_s(self, step: str) -> float:
        return self._timeouts.detect if step == _LOOK else TIMEOUT[Action(step)](self._timeouts)


@contextlib.contextmanager
def _around(actions: tuple[Action, ...] = ()) -> Iterator[None]:
    """Pass the fault points of all that one run does: what comes between is out of our sight."""
    with contextlib.ExitStack() as stack:
        stack.enter_context(points.around("cuda.get-state"))
        for action in actions:
            stack.enter_context(points.around(f"cuda.{action}"))
        yield


def _is_lost(move: Move) -> bool:
    return move.state is CudaState.FAILED
