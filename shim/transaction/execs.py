"""Processes that descend from an exec: no restore brings them back."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence

import msgspec

from shim.cuda.table import label
from shim.errors import Refused
from shim.host.text import first_few
from shim.model import CudaProcess, ExecProcesses
from shim.runsc.output import GuestProcess
from shim.transaction.exec_origin import ExecOrigins, find
from shim.transaction.target import CheckpointTarget

_FROM_OWN_COMMAND = "start it from the container's own command"


class ExecCheck:
    """Finds such processes before a save; those with CUDA state are rejected or dropped."""

    def __init__(
        self,
        target: CheckpointTarget,
        policy: ExecProcesses,
        warn: Callable[[str], None],
        *,
        exit: bool,
        traces: bool = True,
    ) -> None:
        """`policy` is for those with CUDA state; `exit`: the task is stopped after the save.

        Without `traces` the sentry is not asked, which stops the sandbox for a moment.
        """
        self._target = target
        self._policy = policy
        self._warn = warn
        self._exit = exit
        self._traces = traces
        self._judged: set[CudaProcess] = set()
        self.dropped: frozenset[CudaProcess] = frozenset()

    def covers(self, known: Iterable[CudaProcess]) -> bool:
        """Whether all of these CUDA processes have been judged."""
        return set(known) <= self._judged

    async def look(self, known: Sequence[CudaProcess], *, paused: bool) -> None:
        """List the processes, judge those with CUDA state, and warn of the others.

        Raises:
            Refused: a CUDA process descends from an exec, or may, and the task is to be stopped.
        """
        listed = await asyncio.gather(*(one.guest.ps() for one in self._target.containers))
        await self.look_at(listed, known, paused=paused)

    async def look_at(
        self,
        listed: Sequence[list[GuestProcess]],
        known: Sequence[CudaProcess],
        *,
        paused: bool,
    ) -> None:
        """Do what `look` does, with the processes that `ps` has listed in each container.

        Raises:
            Refused: as `look`.
        """
        containers = self._target.containers
        origins = await find(self._target, listed, paused=paused or not self._traces)
        execs: list[CudaProcess] = []
        unknown: list[CudaProcess] = []
        for one, rows, found in zip(containers, listed, origins, strict=True):
            own = [process for process in known if process.container == one.container]
            numbers = await _numbers(one, rows, found) if own else {}
            self._name(rows, found, numbers, own)
            for process in own:
                match _origin(process.pid, numbers, found):
                    case True:
                        execs.append(process)
                    case None:
                        unknown.append(process)
        self._judge(execs, unknown)
        self._judged.update(known)

    def take_parked(
        self, known: Sequence[CudaProcess], execs: Iterable[int], unclear: Iterable[int] = ()
    ) -> None:
        """Judge the processes of a parked task, with what was found when it was parked.

        Raises:
            Refused: as `look`.
        """
        found, unknown = set(execs), set(unclear)
        self._judge(
            [process for process in known if process.pid in found],
            [process for process in known if process.pid in unknown],
        )
        self._judged.update(known)

    def marked(self, process: CudaProcess) -> CudaProcess:
        """Mark the process as dropped, if it will be missing in a restored copy."""
        if process not in self.dropped:
            return process
        return msgspec.structs.replace(process, dropped=True)

    def _judge(self, execs: list[CudaProcess], unknown: list[CudaProcess]) -> None:
        if unknown:
            names = _labels(unknown)
            message = f"whether an exec has started {names} is not known"
            if self._exit:
                message += ", and the task is to be stopped: a restore would not bring them back"
                raise Refused(message, remedy=f"leave out --exit, or {_FROM_OWN_COMMAND}")
            self._warn(f"{message}; if so, a restore of this image fails")
        if not execs:
            return
        names = _labels(execs)
        if self._policy is ExecProcesses.REFUSE:
            message = f"an exec has started {names}, which uses the GPU: no restore brings it back"
            remedy = f"{_FROM_OWN_COMMAND}, or save without it by --exec-processes drop"
            raise Refused(message, remedy=remedy)
        self.dropped |= frozenset(execs)
        self._warn(f"a restored copy is without {names}, which an exec has started")

    def _name(
        self,
        rows: list[GuestProcess],
        found: ExecOrigins,
        numbers: dict[int, int] | None,
        cuda: Sequence[CudaProcess],
    ) -> None:
        """Warn of background processes without CUDA state that an exec has started."""
        own = {process.pid for process in cuda}
        left = [
            f"{row.pid} ({row.command})"
            for row in rows
            if row.pid in found.execs and row.parent and (numbers or {}).get(row.pid) not in own
        ]
        if left:
            names = first_few(left)
            self._warn(f"processes that an exec has started end in a restored copy: {names}")


async def cuda_execs(
    target: CheckpointTarget, known: Sequence[CudaProcess]
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """List the CUDA processes of the sandbox's own container that descend from an exec.

    The second list is of those that may: it is not known. The sandbox must be running.
    """
    rows = await target.guest.ps()
    (found,) = await find(target, [rows], paused=False)
    numbers = await _numbers(target, rows, found)
    origins = {process.pid: _origin(process.pid, numbers, found) for process in known}
    return (
        tuple(pid for pid, execs in origins.items() if execs),
        tuple(pid for pid, execs in origins.items() if execs is None),
    )


def _origin(pid: int, numbers: dict[int, int] | None, found: ExecOrigins) -> bool | None:
    """Whether a process descends from an exec; `pid` is the container's number; None: not known."""
    if numbers is None:
        return None
    row = next((row for row, own in numbers.items() if own == pid), None)
    if row in found.execs:
        return True
    return None if row in found.unknown else False


async def _numbers(
    target: CheckpointTarget, rows: list[GuestProcess], found: ExecOrigins
) -> dict[int, int] | None:
    """Map the pids of `ps` to the container's own; None if these cannot be found out."""
    if not (found.execs or found.unknown):
        return {}
    return await target.guest.own_numbers(rows)


def _labels(processes: Sequence[CudaProcess]) -> str:
    noun = "process" if len(processes) == 1 else "processes"
    return f"{noun} {first_few([label(process) for process in processes])}"
