"""The CUDA processes of one container: their states, journal entries and error texts."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping

import msgspec

from shim.cuda.detect import Holder, Scan
from shim.cuda.moves import AFTER, PHASE, Action
from shim.errors import CryoError, CudaError, DeadlineExceeded, ResourceExhausted
from shim.model import CudaProcess, CudaState, Phase, Progress, Report

_log = logging.getLogger(__name__)

# Writes a process's number, name and state to the journal.
Record = Callable[[int, str, str], None]


def label(process: CudaProcess) -> str:
    """Name a process for a message."""
    name = f"{process.pid} ({process.name})" if process.name else str(process.pid)
    return f"{name} of {process.container}" if process.container else name


class ProcessTable:
    """The CUDA processes of one container, each with the state that was last read.

    Each change goes to the journal and to the progress callback. `container` is empty for the
    sandbox's root. `states` has those of `known` whose state has been read; `non_cuda_holders`
    have a GPU device open and no CUDA state (NVML users, forked helpers).
    """

    def __init__(self, report: Report, record: Record, *, container: str = "") -> None:
        self.container = container
        self.known: dict[int, CudaProcess] = {}
        self.states: dict[int, CudaState] = {}
        self.last_scan: Scan | None = None
        self.non_cuda_holders: tuple[Holder, ...] = ()
        self._report = report
        self._record = record
        self._names: dict[int, str] = {}

    # -- which processes there are -------------------------------------------------------------

    def adopt(self, processes: Iterable[CudaProcess]) -> None:
        """Add processes of a journal or a manifest; their states are read before any move."""
        self.known.update({process.pid: process for process in processes})

    def note_names(self, holders: Iterable[Holder]) -> None:
        """Keep the names of processes, for messages about those that are not known."""
        self._names.update({holder.pid: holder.name for holder in holders})

    def add(self, holders: Iterable[Holder], states: Mapping[int, CudaState | None]) -> list[int]:
        """Add the holders that have a CUDA state and are new; return their numbers."""
        fresh: list[int] = []
        for holder in holders:
            state = states.get(holder.pid)
            if state is None or holder.pid in self.states:
                continue
            self.known[holder.pid] = CudaProcess(pid=holder.pid, name=holder.name)
            self.states[holder.pid] = state
            fresh.append(holder.pid)
        return fresh

    def note_others(self, scan: Scan) -> None:
        """Keep the holders of a device that turned out to have no CUDA state."""
        self.non_cuda_holders = tuple(h for h in scan.holders if h.pid not in self.states)

    def forget(self, pid: int) -> None:
        """Drop a process that exited, which is not an error."""
        self.known.pop(pid, None)
        self.states.pop(pid, None)
        self.write(pid, "gone")

    # -- the state of each ---------------------------------------------------------------------

    def announce(self, action: Action, count: int) -> None:
        """Report that a move begins."""
        noun = "process" if count == 1 else "processes"
        where = f" of {self.container}" if self.container else ""
        self._report(Progress(phase=PHASE[action], message=f"{action} {count} {noun}{where}"))

    def warn(self, message: str) -> None:
        """Report a warning."""
        self._report(Progress(phase=Phase.DETECT, message=message, warning=True))

    def update(
        self, pid: int, state: CudaState, *, phase: Phase = Phase.DETECT, took_s: float = 0.0
    ) -> None:
        """Note a state that was read."""
        self.states[pid] = state
        self.write(pid, state)
        self._report(
            Progress(phase=phase, pid=pid, pid_state=state, container=self.container, took_s=took_s)
        )

    def write(self, pid: int, state: str, *, must: bool = False) -> None:
        """Write to the journal; in a thaw, a full disk must not keep a process frozen.

        Raises:
            CryoError: `must` is set, and it cannot be written.
        """
        try:
            self._record(pid, self.known[pid].name if pid in self.known else "", state)
        except CryoError as error:
            if must:
                raise
            _log.warning("process %s: %s", self.label(pid), error)

    def processes(self) -> list[CudaProcess]:
        """List the known processes, by number."""
        return [self.process(pid) for pid in sorted(self.known)]

    def process(self, pid: int) -> CudaProcess:
        """Return one process with the container that it belongs to."""
        known = self.known.get(pid, CudaProcess(pid=pid))
        return msgspec.structs.replace(known, container=self.container)

    def in_state(self, state: CudaState) -> list[int]:
        """List the processes that were in a state when last read."""
        return [pid for pid, now in self.states.items() if now is state]

    def running(self) -> bool:
        """Whether every known process was running when last read."""
        return all(self.states.get(pid) is CudaState.RUNNING for pid in self.known)

    def not_running(self) -> dict[int, CudaState]:
        """Return those that were not running when last read, with their states."""
        return {p: s for p, s in self.states.items() if s is not CudaState.RUNNING}

    # -- errors --------------------------------------------------------------------------------

    def check_none_failed(self) -> None:
        """Check that the driver has given up no process.

        Raises:
            CudaError: it has.
        """
        for pid in self.in_state(CudaState.FAILED):
            message = f"the driver has declared process {pid} failed: its GPU state is lost"
            raise CudaError(message, pid=pid, remedy="kill the task and start it again")

    def wrong_state(self, action: Action, pid: int, state: CudaState | None) -> CudaError | None:
        """Return the error of a process that is not where a move leads; None where it is."""
        if state is AFTER[action]:
            return None
        what = state or "without a state"
        message = f"process {self.label(pid)} is {what} after {action}, not {AFTER[action]}"
        return CudaError(message, pid=pid, remedy="check the driver and cuda-checkpoint versions")

    def not_thawed(self, pid: int) -> CudaError:
        """Return the error of a process that cannot be brought back."""
        message = (
            f"process {self.label(pid)} is {self.states[pid]}: the driver cannot bring it back"
        )
        return CudaError(message, pid=pid, remedy="kill the task and start it again")

    def label(self, pid: int) -> str:
        """Name a process for a message."""
        name = self.known[pid].name if pid in self.known else self._names.get(pid, "")
        return label(CudaProcess(pid=pid, name=name, container=self.container))

    def with_label(self, pid: int, error: CryoError) -> CryoError:
        """Add the process's name and last state to an error that has its number only."""
        bare, whole = f"process {pid}", f"process {self.label(pid)}"
        if bare not in error.message or (whole != bare and whole in error.message):
            return error
        now = self.states.get(pid)
        text = error.message.replace(bare, whole, 1) + (f"; it was {now}" if now else "")
        if isinstance(error, CudaError):
            return CudaError(text, pid=pid, remedy=error.remedy)
        if isinstance(error, DeadlineExceeded | ResourceExhausted):
            return type(error)(text, remedy=error.remedy)
        return error
