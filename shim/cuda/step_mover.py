"""Moves the CUDA processes of one container by cuda-checkpoint: a call per process and move.

Every move is read back with `--get-state`. Work on several processes runs side by side.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import TypeVar

from shim import failpoints
from shim.config import Timeouts
from shim.cuda import detect
from shim.cuda.detect import Holder
from shim.cuda.guest import Guest
from shim.cuda.moves import PHASE, UNDER_WAY, Action, limit_s
from shim.cuda.table import ProcessTable
from shim.cuda.tool import CudaTool
from shim.errors import CryoError, CudaError
from shim.model import CudaState, Phase

_SIDE_BY_SIDE = 16
# Up to so many holders are not checked for whether they exist.
_FEW = 16
_DOWNWARD = frozenset({Action.LOCK, Action.CHECKPOINT})
_T = TypeVar("_T")


class StepMover:
    """One cuda-checkpoint call per process and move; `table` has what is known of them."""

    def __init__(
        self,
        table: ProcessTable,
        guest: Guest,
        tool: CudaTool,
        timeouts: Timeouts,
        *,
        may_ask: bool = True,
        device_map: Mapping[str, str] | None = None,
    ) -> None:
        """Take a container and the tool in it.

        `may_ask` allows a search that takes the numbers of `guest.ps` for the container's own.
        `device_map` has the new GPU for each old one, by UUID, for a restore.
        """
        self.table = table
        self.guest = guest
        self.timeouts = timeouts
        self.device_map = device_map or {}
        self._tool = tool
        self._may_ask = may_ask
        self._gate = asyncio.Semaphore(_SIDE_BY_SIDE)

    @property
    def tool_path(self) -> str:
        """Return the path of its program in the container."""
        return self._tool.path

    # -- finding -------------------------------------------------------------------------------

    async def find(self) -> list[int]:
        """Find CUDA processes; return those not known before.

        Raises:
            NotFound: the container has no cuda-checkpoint.
            CryoError: the search failed, or the state of a process cannot be read.
        """
        table = self.table
        scan = await detect.scan(self.guest, timeout_s=self.timeouts.detect, may_ask=self._may_ask)
        table.last_scan = scan
        table.note_names(scan.holders)
        existing = await self._existing([h for h in scan.holders if h.pid not in table.states])
        states, failures = await self._side_by_side([h.pid for h in existing], self._read)
        if failures:
            raise failures[0]
        fresh = table.add(existing, states)
        if scan.method != "ask":
            table.note_others(scan)
        return fresh

    async def _existing(self, holders: list[Holder]) -> list[Holder]:
        """Leave out holders that do not exist: reading a state costs a run of the tool.

        Raises:
            CudaError: there are more than the container can have.
        """
        if len(holders) <= _FEW:
            return holders
        rows = await self.guest.ps()
        if self._may_ask:
            there = {row.pid for row in rows}
            return [holder for holder in holders if holder.pid in there]
        # Its numbers are not those of `ps`, so only how many there are can be compared.
        if len(holders) > 2 * len(rows) + _FEW:
            message = f"the container names {len(holders)} GPU processes and has {len(rows)} in all"
            raise CudaError(message, remedy="see that its /proc is its own, or use --cuda ignore")
        return holders

    async def refresh(self) -> list[CryoError]:
        """Read every known process's state; forget those that exited, return what went wrong."""

        async def one(pid: int) -> None:
            try:
                state = await self._read(pid)
            except CryoError:
                if await self.guest.has(pid):
                    raise
                state = None  # its whole container is gone
            await self._note(pid, state, Phase.DETECT)

        _, failures = await self._side_by_side(list(self.table.known), one)
        return failures

    async def _read(self, pid: int) -> CudaState | None:
        with failpoints.around("cuda.get-state"):
            return await self._tool.state(pid, timeout_s=self.timeouts.detect)

    # -- moving --------------------------------------------------------------------------------

    async def move(self, action: Action, state: CudaState) -> list[CryoError]:
        """Do one move on every process that is in a state; return what went wrong."""
        pids = self.table.in_state(state)
        if pids:
            self.table.announce(action, len(pids))
        _, failures = await self._side_by_side(pids, lambda pid: self._move(action, pid))
        return failures

    async def _move(self, action: Action, pid: int) -> None:
        table, timeout_s = self.table, limit_s(action, self.timeouts)
        table.write(pid, UNDER_WAY[action], must=action in _DOWNWARD)
        began = time.monotonic()
        try:
            with failpoints.around(f"cuda.{action}"):
                await self._tool.act(action, pid, timeout_s=timeout_s, device_map=self.device_map)
        except CryoError:
            if not await self.guest.has(pid):
                table.forget(pid)
                return
            raise
        took_s = time.monotonic() - began
        state = await self._read(pid)
        await self._note(pid, state, PHASE[action], took_s)
        if state is not None and (error := table.wrong_state(action, pid, state)):
            raise error

    async def _note(
        self, pid: int, state: CudaState | None, phase: Phase, took_s: float = 0.0
    ) -> None:
        if state is not None:
            self.table.update(pid, state, phase=phase, took_s=took_s)
        elif await self.guest.has(pid):
            message = f"process {self.table.label(pid)} no longer answers cuda-checkpoint"
            raise CudaError(message, pid=pid, remedy="look at its log; its GPU state may be lost")
        else:
            self.table.forget(pid)

    async def _side_by_side(
        self, pids: list[int], work: Callable[[int], Awaitable[_T]]
    ) -> tuple[dict[int, _T], list[CryoError]]:
        """Run `work` for each process; all of it is over when this returns or is cancelled."""
        failures: list[CryoError] = []
        results: dict[int, _T] = {}

        async def one(pid: int) -> None:
            async with self._gate:
                try:
                    results[pid] = await work(pid)
                except CryoError as error:
                    failures.append(self.table.with_label(pid, error))

        async with asyncio.TaskGroup() as tasks:
            for pid in pids:
                tasks.create_task(one(pid))
        return results, failures
