"""The CUDA processes of one container during one operation: find them, and move them.

Every move is read back with `--get-state`. Work on several processes runs side by side. In which
order the moves of all containers come is decided in `shim.cuda.fleet`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import TypeVar

from shim import points
from shim.config import Timeouts
from shim.cuda import detect
from shim.cuda.detect import Holder, Scan
from shim.cuda.guest import Guest
from shim.cuda.moves import AFTER, Action, step
from shim.cuda.tool import CudaTool
from shim.errors import CryoError, CudaError, DeadlineExceeded, ResourceExhausted
from shim.model import CudaProcess, CudaState, Phase, Progress, Report

_log = logging.getLogger(__name__)
_SIDE_BY_SIDE = 16
# So many claims are looked at without asking whether there are such processes.
_FEW = 16
PHASE = {
    Action.LOCK: Phase.LOCK,
    Action.CHECKPOINT: Phase.FREEZE,
    Action.RESTORE: Phase.THAW,
    Action.UNLOCK: Phase.THAW,
}
TIMEOUT: dict[Action, Callable[[Timeouts], float]] = {
    Action.LOCK: lambda timeouts: timeouts.lock,
    Action.CHECKPOINT: lambda timeouts: timeouts.freeze,
    Action.RESTORE: lambda timeouts: timeouts.thaw,
    Action.UNLOCK: lambda timeouts: timeouts.thaw,
}
_DOWNWARD = frozenset({Action.LOCK, Action.CHECKPOINT})

Record = Callable[[int, str, str], None]
_T = TypeVar("_T")


def label(process: CudaProcess) -> str:
    """Name a process for a message."""
    name = f"{process.pid} ({process.name})" if process.name else str(process.pid)
    return f"{name} of {process.container}" if process.container else name


class Processes:
    """What is known of the container's CUDA processes; the moves change it."""

    def __init__(
        self,
        guest: Guest,
        tool: CudaTool,
        timeouts: Timeouts,
        report: Report,
        record: Record,
        *,
        container: str = "",
        may_ask: bool = True,
    ) -> None:
        """Take a container's inside; `container` names it where the sandbox has several.

        `may_ask` allows a search that takes the numbers of `guest.ps` for the container's own.
        """
        self.container = container
        self._may_ask = may_ask
        self._guest = guest
        self._tool = tool
        self._timeouts = timeouts
        self._report = report
        self._record = record
        self._gate = asyncio.Semaphore(_SIDE_BY_SIDE)
        self._names: dict[int, str] = {}
        self.known: dict[int, CudaProcess] = {}
        self.states: dict[int, CudaState] = {}
        self.bystanders: tuple[Holder, ...] = ()
        self.last_scan: Scan | None = None
        self.device_map: Mapping[str, str] = {}

    @property
    def helper_path(self) -> str:
        """Return where cryo-cuda is in the container, empty where it is not used."""
        return ""

    # -- finding -------------------------------------------------------------------------------

    async def find(self) -> list[int]:
        """Look for CUDA processes; return those not known before.

        Holders of a device without CUDA state (NVML users, forked helpers) become `bystanders`.
        """
        found = await detect.scan(
            self._guest, timeout_s=self._timeouts.detect, may_ask=self._may_ask
        )
        self.last_scan = found
        self._names.update({holder.pid: holder.name for holder in found.holders})
        unknown = await self._real([h for h in found.holders if h.pid not in self.states])
        states, failures = await self._side_by_side([h.pid for h in unknown], self._read)
        if failures:
            raise failures[0]
        fresh = [h for h in unknown if states.get(h.pid) is not None]
        if found.method != "ask":
            self._note_bystanders(found, fresh)
        for holder in fresh:
            self._learn(holder, states[holder.pid])
        return [holder.pid for holder in fresh]

    async def _real(self, holders: list[Holder]) -> list[Holder]:
        """Leave out processes that are only claimed: each question costs a run of the tool.

        Raises:
            CudaError: there are more than the container can have.
        """
        if len(holders) <= _FEW:
            return holders
        rows = await self._guest.ps()
        if self._may_ask:
            there = {row.pid for row in rows}
            return [holder for holder in holders if holder.pid in there]
        # Its numbers are not those of `ps`, so only how many there are can be compared.
        if len(holders) > 2 * len(rows) + _FEW:
            message = f"the container names {len(holders)} GPU processes and has {len(rows)} in all"
            raise CudaError(message, remedy="see that its /proc is its own, or use --cuda ignore")
        return holders

    def _note_bystanders(self, found: Scan, fresh: list[Holder]) -> None:
        cuda = {holder.pid for holder in fresh} | set(self.states)
        self.bystanders = tuple(h for h in found.holders if h.pid not in cuda)

    def _learn(self, holder: Holder, state: CudaState | None) -> None:
        if state is None:
            return
        self.known[holder.pid] = CudaProcess(pid=holder.pid, name=holder.name)
        self.states[holder.pid] = state

    def adopt(self, processes: Iterable[CudaProcess]) -> None:
        """Take processes from a journal or a manifest; their states are read before any move."""
        self.known.update({process.pid: process for process in processes})

    async def _read(self, pid: int) -> CudaState | None:
        with points.around("cuda.get-state"):
            return await self._tool.state(pid, timeout_s=self._timeouts.detect)

    # -- moving --------------------------------------------------------------------------------

    async def move_all(self, action: Action, state: CudaState) -> list[CryoError]:
        """Do one move on every process that is in a state; return what went wrong."""
        return await self._moves(action, self._in(state), TIMEOUT[action](self._timeouts))

    def lost(self) -> list[CryoError]:
        """Name the processes that the driver has given up."""
        return [self._not_running(p, s) for p, s in self.states.items() if s is CudaState.FAILED]

    async def refresh(self) -> list[CryoError]:
        """Read every known process's state; forget those that are gone, return what went wrong."""

        async def one(pid: int) -> None:
            try:
                state = await self._read(pid)
            except CryoError:
                if await self._exists(pid):
                    raise
                state = None  # its whole container is gone
            await self._note(pid, state)

        _, failures = await self._side_by_side(list(self.known), one)
        return failures

    def running(self) -> bool:
        """Whether every known process was running when last read."""
        return all(self.states.get(pid) is CudaState.RUNNING for pid in self.known)

    def unfinished(self) -> str:
        """Name the processes that were not running when last read, each with its state."""
        return ", ".join(f"process {self._label(p)} is {s}" for p, s in self.not_running().items())

    def not_running(self) -> dict[int, CudaState]:
        """Return those that were not running when last read, with their states."""
        return {p: s for p, s in self.states.items() if s is not CudaState.RUNNING}

    def check_none_failed(self) -> None:
        """See that no process is beyond every move.

        Raises:
            CudaError: one is.
        """
        for pid, state in self.states.items():
            step(pid, state, CudaState.RUNNING)

    def _in(self, state: CudaState) -> list[int]:
        return [pid for pid, now in self.states.items() if now is state]

    async def _moves(self, action: Action, pids: list[int], timeout_s: float) -> list[CryoError]:
        """Do one move on several processes and return what went wrong."""
        if pids:
            noun = "process" if len(pids) == 1 else "processes"
            where = f" of {self.container}" if self.container else ""
            message = f"{action} {len(pids)} {noun}{where}"
            self._report(Progress(phase=PHASE[action], message=message))

        async def one(pid: int) -> None:
            await self._move(action, pid, timeout_s)

        _, failures = await self._side_by_side(pids, one)
        return failures

    async def _move(self, action: Action, pid: int, timeout_s: float) -> None:
        self._write_down(pid, f"{action}ing", must=action in _DOWNWARD)
        try:
            with points.around(f"cuda.{action}"):
                await self._tool.act(action, pid, timeout_s=timeout_s, device_map=self.device_map)
        except CryoError:
            if not await self._exists(pid):
                self._forget(pid)
                return
            raise
        await self._note(pid, await self._read(pid), PHASE[action])
        now = self.states.get(pid)
        if now is not None and now is not AFTER[action]:
            message = f"process {self._label(pid)} is {now} after {action}, not {AFTER[action]}"
            raise CudaError(
                message, pid=pid, remedy="check the driver and cuda-checkpoint versions"
            )

    async def _note(self, pid: int, state: CudaState | None, phase: Phase = Phase.DETECT) -> None:
        if state is not None:
            self.states[pid] = state
            self._write_down(pid, state)
            self._report(Progress(phase=phase, pid=pid, pid_state=state, container=self.container))
        elif await self._exists(pid):
            message = f"process {self._label(pid)} no longer answers cuda-checkpoint"
            raise CudaError(message, pid=pid, remedy="look at its log; its GPU state may be lost")
        else:
            self._forget(pid)

    async def _exists(self, pid: int) -> bool:
        return await self._guest.has(pid)

    def _forget(self, pid: int) -> None:
        """Drop a process that exited meanwhile, which is not an error."""
        self.known.pop(pid, None)
        self.states.pop(pid, None)
        self._write_down(pid, "gone")

    def _write_down(self, pid: int, state: str, *, must: bool = False) -> None:
        """Tell the journal; on the way back a full disk must not keep a process frozen."""
        try:
            self._record(pid, self.known[pid].name if pid in self.known else "", state)
        except CryoError as error:
            if must:
                raise
            _log.warning("process %s: %s", self._label(pid), error)

    def _label(self, pid: int) -> str:
        name = self.known[pid].name if pid in self.known else self._names.get(pid, "")
        return label(CudaProcess(pid=pid, name=name, container=self.container))

    def _named(self, pid: int, error: CryoError) -> CryoError:
        """Add the process's name and last known state to a message that has its number only."""
        bare, whole = f"process {pid}", f"process {self._label(pid)}"
        if bare not in error.message or (whole != bare and whole in error.message):
            return error
        now = self.states.get(pid)
        text = error.message.replace(bare, whole, 1) + (f"; it was {now}" if now else "")
        if isinstance(error, CudaError):
            return CudaError(text, pid=pid, remedy=error.remedy)
        if isinstance(error, DeadlineExceeded | ResourceExhausted):
            return type(error)(text, remedy=error.remedy)
        return error

    def _not_running(self, pid: int, state: CudaState) -> CudaError:
        message = f"process {self._label(pid)} is {state}: the driver cannot bring it back"
        return CudaError(message, pid=pid, remedy="kill the task and start it again")

    async def _side_by_side(
        self, pids: list[int], work: Callable[[int], Awaitable[_T]]
    ) -> tuple[dict[int, _T], list[CryoError]]:
        """Run `work` for each process; all have ended when this returns, or is cancelled."""
        failures: list[CryoError] = []
        results: dict[int, _T] = {}

        async def one(pid: int) -> None:
            async with self._gate:
                try:
                    results[pid] = await work(pid)
                except CryoError as error:
                    failures.append(self._named(pid, error))

        async with asyncio.TaskGroup() as group:
            for pid in pids:
                group.create_task(one(pid))
        return results, failures
