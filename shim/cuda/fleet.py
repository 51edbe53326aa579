"""The CUDA processes of all containers of a sandbox, moved as one.

There are never two kinds of move at once: all are locked before any is checkpointed, all restored
before any is unlocked, because processes that share a job wait for one another. A container that
has its sandbox to itself is the case of one part.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

import msgspec

from shim.cuda.moves import Action
from shim.cuda.processes import Processes
from shim.errors import CryoError, CudaError
from shim.model import CudaProcess, CudaState

_ROUNDS = 10
_T = TypeVar("_T")


class Fleet:
    """The processes of one sandbox, container by container."""

    def __init__(self, parts: Sequence[Processes]) -> None:
        self.parts = tuple(parts)

    @property
    def known(self) -> list[CudaProcess]:
        """List all that are known, each with the container that it belongs to."""
        return [_one(part, pid) for part in self.parts for pid in sorted(part.known)]

    async def find(self) -> list[CudaProcess]:
        """Look for CUDA processes in every container; return those not known before."""
        found = await self._each(lambda part: part.find())
        pairs = zip(self.parts, found, strict=True)
        return [_one(part, pid) for part, pids in pairs for pid in pids]

    async def freeze(self) -> None:
        """Lock all, then checkpoint all, until a look finds no CUDA process left running.

        Raises:
            CudaError: a process failed, or new ones keep appearing.
            DeadlineExceeded: one held it up; the message names it.
        """
        for _ in range(_ROUNDS):
            if await self.freeze_once():
                return
        message = "CUDA processes keep appearing: the container starts them faster than they freeze"
        raise CudaError(message, remedy="checkpoint when the workload has settled")

    async def freeze_once(self) -> bool:
        """Lock all, then checkpoint all that are known; return whether a look finds no other.

        Raises:
            CudaError, DeadlineExceeded: as `freeze`.
        """
        await self._lock_all()
        raise_first(await self._moves(Action.CHECKPOINT, CudaState.LOCKED))
        return not await self.find()

    async def _lock_all(self) -> None:
        for _ in range(_ROUNDS):
            for part in self.parts:
                part.check_none_failed()
            raise_first(await self._moves(Action.LOCK, CudaState.RUNNING))
            if not await self.find():
                return

    async def thaw(self) -> None:
        """Bring every known process back to running; one that cannot be does not stop the others.

        Raises:
            CudaError, DeadlineExceeded, ResourceExhausted: the first that did not come back.
        """
        failures = await self.refresh()
        failures += await self._moves(Action.RESTORE, CudaState.CHECKPOINTED)
        failures += await self._moves(Action.UNLOCK, CudaState.LOCKED)
        raise_first([*failures, *(lost for part in self.parts for lost in part.lost())])

    async def refresh(self) -> list[CryoError]:
        """Read every known process's state; return what went wrong."""
        return _all(await self._each(lambda part: part.refresh()))

    async def _moves(self, action: Action, state: CudaState) -> list[CryoError]:
        return _all(await self._each(lambda part: part.move_all(action, state)))

    async def _each(self, do: Callable[[Processes], Awaitable[_T]]) -> list[_T]:
        """Do the same in every container at once; all have ended when this returns or raises."""
        done = await asyncio.gather(*(do(part) for part in self.parts), return_exceptions=True)
        for one in done:
            if isinstance(one, BaseException):
                raise one
        return [one for one in done if not isinstance(one, BaseException)]

    def running(self) -> bool:
        """Whether every known process was running when last read."""
        return all(part.running() for part in self.parts)

    def not_running(self) -> list[tuple[CudaProcess, CudaState]]:
        """List those that were not running when last read, with their states."""
        return [
            (_one(part, pid), state)
            for part in self.parts
            for pid, state in part.not_running().items()
        ]

    def unfinished(self) -> str:
        """Name the processes that were not running when last read, each with its state."""
        return ", ".join(filter(None, (part.unfinished() for part in self.parts)))


def _one(part: Processes, pid: int) -> CudaProcess:
    known = part.known.get(pid, CudaProcess(pid=pid))
    return msgspec.structs.replace(known, container=part.container)


def _all(failures: list[list[CryoError]]) -> list[CryoError]:
    return [failure for some in failures for failure in some]


def raise_first(failures: list[CryoError]) -> None:
    """Raise the first of these, if there is any."""
    if failures:
        raise failures[0]
