"""The engines, which run the CUDA steps around a save. `phased` is `CudaGroup` itself."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from typing import Protocol

from shim.config import Timeouts
from shim.cuda.group import CudaGroup
from shim.cuda.guest import Guest
from shim.cuda.table import label
from shim.cuda.tool import STUCK
from shim.cuda.tool_processes import ToolProcesses
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
        """Before a save: bring all CUDA processes to the state that it needs."""

    async def guard(self, before: frozenset[int] | None = None) -> None:
        """Watch a save until cancelled; kill tools of it that hang.

        `before` are the processes that are no tools of the save; None means all that run now.
        """

    async def check(self) -> None:
        """After a save: raise if a process is in the image without its GPU state."""

    async def thaw(self) -> None:
        """After a successful save: bring every process back to `running`."""

    async def undo(self) -> None:
        """After a failure: bring every process back to `running`, whatever its state."""

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
        """Do nothing: no process has run that could have begun to use the GPU."""

    async def thaw(self) -> None:
        """Do nothing: its GPU may be in use by another task."""

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
        """Take the processes and all containers of the sandbox, its root first."""
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
        """Kill a tool that hangs in the save, which then fails at once and rolls itself back.

        runsc has no timeout here. Its tools are the processes without a parent that did not exist
        before the save; ps works while a save waits for them (measured). The timeout applies to
        each tool, for those of the freeze are followed by those of the thaw.
        """
        if before is None:
            rows = await asyncio.gather(*(guest.ps() for guest in self._guests))
            before = frozenset(row.pid for some in rows for row in some)
        tools = ToolProcesses(self._guests, before, self._timeouts.freeze)
        while True:
            await asyncio.sleep(min(_GUARD_S, self._timeouts.freeze / 4))
            try:
                await tools.look()
            except CryoError:
                continue  # one failed ps must not end the guard
            for pid, guest in tools.late().items():
                self.hung = True
                await guest.end(pid)

    async def check(self) -> None:
        """Find processes that began to use the GPU during the save: runsc looks once, before it.

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
        """Read every state back, because runsc has thawed them; thaw those that it has not."""
        await self._group.thaw()

    async def undo(self) -> None:
        """Let the sentry finish its pending CUDA steps, then bring every process to `running`."""
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
    """Turn runsc's error of a failed tool into a typed one: memory, a timeout, or CUDA."""
    text = error.message
    if "cuda-checkpoint" not in text:
        return error
    pid = _pid_of(text)
    who = label(_process_named(text, pid, known))
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
    remedy = "look at the output of the process; --engine phased reports the step that failed"
    return CudaError(message, pid=pid, remedy=remedy)


def _process_named(text: str, pid: int, known: Iterable[CudaProcess]) -> CudaProcess:
    """Return the process of that number; in a pod, that of the container which runsc names."""
    found = [process for process in known if process.pid == pid]
    named = [p for p in found if p.container and f'"{runsc_id(p.container)}' in text]
    return next(iter((*named, *found)), CudaProcess(pid=pid))


def _outcome_in(text: str) -> str:
    """Return the outcome of the tool from runsc's error, without the text around it."""
    return (text.rpartition('" failed with ')[2] or text)[-_SHOWN:]


def _pid_of(text: str) -> int:
    _, _, rest = text.partition("for PID ")
    digits = rest.split(" ", 1)[0]
    return int(digits) if digits.isascii() and digits.isdigit() else 0
