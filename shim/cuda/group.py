"""All CUDA processes of a sandbox, and the order in which they are moved."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from itertools import chain
from typing import Protocol, TypeVar

from shim.cuda.batch_mover import BatchMover
from shim.cuda.moves import Action
from shim.cuda.table import ProcessTable
from shim.errors import CryoError, CudaError
from shim.model import CudaProcess, CudaState, EngineName

_ROUNDS = 10
_T = TypeVar("_T")


class Mover(Protocol):
    """Moves the CUDA processes of one container; `table` has what is known of them."""

    table: ProcessTable

    @property
    def tool_path(self) -> str:
        """Return the path of its program in the container."""

    async def find(self) -> list[int]:
        """Find CUDA processes; return those not known before."""

    async def refresh(self) -> list[CryoError]:
        """Read every known process's state; forget those that exited, return what went wrong."""

    async def move(self, action: Action, state: CudaState) -> list[CryoError]:
        """Do one move on every process that is in a state; return what went wrong."""


class CudaGroup:
    """The CUDA processes of all containers of a sandbox. It is the engine `phased` as well.

    There are never two kinds of move at once: all are locked before any is checkpointed, all
    restored before any is unlocked, because processes that share a job wait for one another.
    """

    name = EngineName.PHASED
    save_path = ""

    def __init__(self, movers: Sequence[Mover]) -> None:
        self.movers = tuple(movers)
        # One run moves the processes of one container alone, so no other may have any.
        match self.movers:
            case [BatchMover() as only]:
                self._batch: BatchMover | None = only
            case _:
                self._batch = None

    # -- what is known -------------------------------------------------------------------------

    @property
    def known(self) -> list[CudaProcess]:
        """List all that are known, each with the container that it belongs to."""
        return [process for mover in self.movers for process in mover.table.processes()]

    @property
    def tool_paths(self) -> list[str]:
        """List the paths of the programs that move the known processes, in their containers."""
        return list(dict.fromkeys(mover.tool_path for mover in self.movers if mover.table.known))

    def running(self) -> bool:
        """Whether every known process was running when last read."""
        return all(mover.table.running() for mover in self.movers)

    def not_running(self) -> list[tuple[CudaProcess, CudaState]]:
        """List those that were not running when last read, with their states."""
        tables = [mover.table for mover in self.movers]
        return [(table.process(p), s) for table in tables for p, s in table.not_running().items()]

    def unfinished(self) -> str:
        """Name the processes that were not running when last read, each with its state."""
        names = (
            f"process {mover.table.label(pid)} is {state}"
            for mover in self.movers
            for pid, state in mover.table.not_running().items()
        )
        return ", ".join(names)

    async def find(self) -> list[CudaProcess]:
        """Find CUDA processes in every container; return those not known before."""
        found = await self._each(lambda mover: mover.find())
        pairs = zip(self.movers, found, strict=True)
        return [mover.table.process(pid) for mover, pids in pairs for pid in pids]

    async def refresh(self) -> list[CryoError]:
        """Read every known process's state; return what went wrong."""
        return list(chain.from_iterable(await self._each(lambda mover: mover.refresh())))

    # -- the engine `phased` -------------------------------------------------------------------

    async def freeze(self) -> None:
        """Lock all, then checkpoint all, until there is no CUDA process left running.

        Raises:
            CudaError: a process failed, or new ones keep appearing.
            DeadlineExceeded: one did not get there in time; the message names it.
        """
        for _ in range(_ROUNDS):
            if await self._freeze_once():
                return
        message = "CUDA processes keep appearing: the container starts them faster than they freeze"
        raise CudaError(message, remedy="checkpoint when the workload has settled")

    async def guard(self, before: frozenset[int] | None = None) -> None:
        """Do nothing until cancelled: no CUDA step runs inside the save."""
        del before
        await asyncio.Event().wait()

    async def check(self) -> None:
        """Do nothing: the freeze ended when there was no other process."""

    async def thaw(self) -> None:
        """Bring every known process back to running; one that fails does not stop the others.

        Raises:
            CudaError, DeadlineExceeded, ResourceExhausted: the first that did not come back.
        """
        failures = await self._batch.thaw() if self._batch else None
        if failures is None:
            failures = await self.refresh()
            failures += await self._move(Action.RESTORE, CudaState.CHECKPOINTED)
            failures += await self._move(Action.UNLOCK, CudaState.LOCKED)
            for table in (mover.table for mover in self.movers):
                failures += map(table.not_thawed, table.in_state(CudaState.FAILED))
        _raise_first(failures)

    async def undo(self) -> None:
        """Bring every known process back to running, whatever state it was left in."""
        await self.thaw()

    async def thaw_restored(self, *, loaded: bool) -> None:
        """Bring every known process back to running."""
        del loaded
        await self.thaw()

    # -- moves ---------------------------------------------------------------------------------

    async def _freeze_once(self) -> bool:
        """Lock all, then checkpoint all known processes; return whether there is no other one."""
        if self._batch is not None:
            done = await self._batch.freeze()
            if done is not None:
                return done
            # It may have moved all of them, with only its output lost.
            _raise_first(await self.refresh())
        for _ in range(_ROUNDS):
            for mover in self.movers:
                mover.table.check_none_failed()
            _raise_first(await self._move(Action.LOCK, CudaState.RUNNING))
            if not await self.find():
                break
        _raise_first(await self._move(Action.CHECKPOINT, CudaState.LOCKED))
        return not await self.find()

    async def _move(self, action: Action, state: CudaState) -> list[CryoError]:
        done = await self._each(lambda mover: mover.move(action, state))
        return list(chain.from_iterable(done))

    async def _each(self, do: Callable[[Mover], Awaitable[_T]]) -> list[_T]:
        """Do the same in every container at once; all of it is over when this returns or raises."""
        done = await asyncio.gather(*(do(mover) for mover in self.movers), return_exceptions=True)
        for one in done:
            if isinstance(one, BaseException):
                raise one
        return [one for one in done if not isinstance(one, BaseException)]


def _raise_first(failures: list[CryoError]) -> None:
    if failures:
        raise failures[0]
