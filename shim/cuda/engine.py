"""The engines, which run the CUDA steps around a save. `phased` is `CudaGroup` itself."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from typing import Protocol

from shim.config import Timeouts
from shim.cuda.group import CudaGroup
from shim.cuda.guest import Guest
from shim.cuda.strays import Strays
from shim.cuda.table import label
from shim.cuda.tool import STUCK
from shim.errors import CryoError, CudaError, DeadlineExceeded, IllegalState, ResourceExhausted
from shim.model import CudaProcess, EngineName
from shim.runsc.argv import runsc_id

_POLL_S = 0.1
_GUARD_S = 1.0
_SHOWN = 200


class Engine(Protocol):
    """The CUDA steps of a checkpoint and a restore."""

    name: EngineName

    @property
    def save_path(self) -> str:
        """The value of `runsc checkpoint --cuda-checkpoint-path`; empty to leave it out."""

    async def freeze(self) -> None:
        """Bring all CUDA processes to where the save can begin."""

    async def guard(self, before: frozenset[int] | None = None) -> None:
        """Watch over a save until cancelled; end what hangs in it.

        `before` are the processes that are none of its tools; None means those of this moment.
        """

    async def check(self) -> None:
        """After a save: raise when a process is in the image without its GPU state."""

    async def thaw(self) -> None:
        """After a good save: every process runs again."""

    async def undo(self) -> None:
        """After anything else: every process runs again, whatever state it was left in."""

    async def thaw_restored(self, *, loaded: bool) -> None:
        """After a restore: every recorded process runs; `loaded`: runsc has done its part."""


class Parked:
    """A task that is frozen already, and stays so: an image of it touches no process."""

    name = EngineName.PHASED
    save_path = ""

    async def freeze(self) -> None:
        """Do nothing: it was done when the task was parked."""

    async def guard(self, before: frozenset[int] | None = None) -> None:
        """Do nothing until cancelled: no CUDA step runs inside the save."""
        del before
        await asyncio.Event().wait()

    async def check(self) -> None:
        """Do nothing: no process runs that could have begun to use the GPU."""

    async def thaw(self) -> None:
        """Do nothing: its GPU may be another's by now."""

    async def undo(self) -> None:
        """Do nothing: nothing was done."""

    async def thaw_restored(self, *, loaded: bool) -> None:
        """Do nothing: a restored task is not parked."""
        del loaded


class Builtin:
    """runsc runs cuda-checkpoint itself, inside the save and after the restore."""

    name = EngineName.BUILTIN

    def __init__(
        self, group: CudaGroup, guests: Sequence[Guest], tool_path: str, timeouts: Timeouts
    ) -> None:
        """Take the processes and the inside of every container of the sandbox, its own first."""
        self._group = group
        self._guests = guests
        self._timeouts = timeouts
        self.save_path = tool_path
        self.hung = False

    async def freeze(self) -> None:
        """Check that every process is `running`: runsc toggles, which inverts any other state.

        Raises:
            IllegalState: one is not.
        """
        for process, state in self._group.not_running():
            message = f"process {process.pid} is {state}: runsc's own engine would invert that"
            raise IllegalState(message, remedy="use --engine phased")

    async def guard(self, before: frozenset[int] | None = None) -> None:
        """End a tool that hangs in the save, which then fails at once and undoes itself.

        runsc has no deadline of its own here. Its tools are the children of nobody that were not
        there before the save; ps answers while a save waits for them (measured). Each has its own
        time, for there are those of the freeze and, later, those of the thaw.
        """
        if before is None:
            rows = await asyncio.gather(*(guest.ps() for guest in self._guests))
            before = frozenset(row.pid for some in rows for row in some)
        tools = Strays(self._guests, before, self._timeouts.freeze)
        while True:
            await asyncio.sleep(min(_GUARD_S, self._timeouts.freeze / 4))
            try:
                await tools.look()
            except CryoError:
                continue  # one question that fails must not end the guard
            for pid, guest in tools.late().items():
                self.hung = True
                await guest.end(pid)

    async def check(self) -> None:
        """Look for processes that began during the save: runsc looks once, before its freeze.

        Raises:
            CudaError: there is one.
        """
        fresh = await self._group.find()
        if fresh:
            message = f"process {label(fresh[0])} began to use the GPU during the save"
            raise CudaError(
                message,
                pid=fresh[0].pid,
                remedy="checkpoint when the workload has settled, or use --engine phased",
            )

    async def thaw(self) -> None:
        """Read every state back: runsc has thawed them after the save."""
        await self._group.thaw()

    async def undo(self) -> None:
        """Let the sentry do what it owes, then bring every process to `running`."""
        await self._guests[0].settle()
        await self._group.thaw()

    async def thaw_restored(self, *, loaded: bool) -> None:
        """Wait until runsc has thawed every recorded process."""
        failures = await self._group.refresh()
        while not loaded and not failures and not self._group.running():
            await asyncio.sleep(_POLL_S)
            failures = await self._group.refresh()
        if failures:
            raise failures[0]
        if not self._group.running():
            late = [process for process, _ in self._group.not_running()]
            message = f"runsc did not thaw {', '.join(f'process {label(one)}' for one in late)}"
            remedy = "restore with an image of --engine phased"
            raise CudaError(message, pid=late[0].pid, remedy=remedy)


def explain(
    error: CryoError, *, hung: bool, timeout_s: float, known: Iterable[CudaProcess]
) -> CryoError:
    """Turn runsc's report of a failed tool into our own: memory, a deadline, or a CUDA failure."""
    text = error.message
    if "cuda-checkpoint" not in text:
        return error
    pid = _pid_of(text)
    who = label(_meant(text, pid, known))
    if hung:
        message = f"cuda-checkpoint --toggle on process {who} did not end in {timeout_s:g} s"
        return DeadlineExceeded(
            message, remedy="a kernel may still run; --engine phased has a lock timeout"
        )
    if "device not ready" in text.lower():  # cryo-cuda's toggle has a deadline for its lock
        message = f"process {who} could not be locked in time: {_outcome_in(text)}"
        return DeadlineExceeded(message, remedy=STUCK)
    message = f"cuda-checkpoint failed on process {who}: {_outcome_in(text)}"
    if "out of memory" in text.lower():
        return ResourceExhausted(message, remedy="free GPU memory, or use another GPU")
    remedy = "look at the output of the process; --engine phased tells the step that failed"
    return CudaError(message, pid=pid, remedy=remedy)


def _meant(text: str, pid: int, known: Iterable[CudaProcess]) -> CudaProcess:
    """Find the process of that number, in a pod that of the container that runsc names too."""
    found = [process for process in known if process.pid == pid]
    named = [p for p in found if p.container and f'"{runsc_id(p.container)}' in text]
    return next(iter((*named, *found)), CudaProcess(pid=pid))


def _outcome_in(text: str) -> str:
    """Return what runsc says of the tool's end, without the words around it."""
    return (text.rpartition('" failed with ')[2] or text)[-_SHOWN:]


def _pid_of(text: str) -> int:
    _, _, rest = text.partition("for PID ")
    digits = rest.split(" ", 1)[0]
    return int(digits) if digits.isascii() and digits.isdigit() else 0
