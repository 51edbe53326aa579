"""The processes of a task for a listing: what runs, as which user, and with which GPU state."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping

import msgspec

from shim.errors import Busy, CryoError, IllegalState
from shim.model import GuestProcessView, ProcessList
from shim.runsc.output import GuestProcess
from shim.runsc.process_dump import DumpedProcess
from shim.state import TaskState
from shim.task.container import Container
from shim.task.state_machine import LIVE
from shim.transaction import cuda_states, memory

_DEVICE = re.compile(r"/dev/nvidia[\w/-]*")


async def of(container: Container, root: Container) -> ProcessList:
    """List the processes of a container; `root` is the root container of its sandbox.

    None before the container runs, and after it has exited.
    """
    if container.state not in LIVE:
        return ProcessList()
    rows = await container.guest.ps()
    return await _Listing(container, root, rows).made()


class _Listing:
    """One listing: what each source knows, and what it could not say."""

    def __init__(self, container: Container, root: Container, rows: list[GuestProcess]) -> None:
        self._container = container
        self._root = root
        self._rows = rows
        self._warnings: list[str] = []

    async def made(self) -> ProcessList:
        dumped = await self._dumped()
        states = await self._cuda_states() if self._container.record.gpu else {}
        holders = [pid for pid, one in dumped.items() if _devices(one)]
        gpu_bytes = await self._gpu_bytes(holders)
        processes = tuple(
            _view(row, dumped.get(row.pid), states.get(row.pid), gpu_bytes.get(row.pid))
            for row in sorted(self._rows, key=lambda row: row.pid)
        )
        return ProcessList(processes=processes, warnings=tuple(self._warnings))

    async def _dumped(self) -> Mapping[int, DumpedProcess]:
        try:
            return await self._container.runsc.sentry.dump(self._container.ref.id)
        except CryoError as error:
            self._warnings.append(f"command lines, users and devices are not known: {error}")
            return {}

    async def _cuda_states(self) -> Mapping[int, str]:
        """Return the states, by the pid of `ps`: those of an operation, or else those now."""
        if self._root.journal.open_entry is not None:
            return self._recorded_states()
        try:
            async with self._container.machine.holding(TaskState.RUNNING, verb="list"):
                target = await self._container.target()
                states = await cuda_states.asked(target)
                numbers = await self._container.guest.own_numbers(self._rows)
        except (Busy, IllegalState):
            return self._recorded_states()
        except CryoError as error:
            self._warnings.append(f"CUDA states are not known: {error}")
            return {}
        return {pid: states[own] for pid, own in (numbers or {}).items() if own in states}

    def _recorded_states(self) -> Mapping[int, str]:
        """Return those of the open journal, whose pids are those of `ps` in the root container."""
        entry = self._root.journal.open_entry
        if entry is None or not self._container.is_root:
            return {}
        found = {row.pid: cuda_states.recorded(entry, row.pid, "") for row in self._rows}
        return {pid: state for pid, state in found.items() if state is not None}

    async def _gpu_bytes(self, holders: Collection[int]) -> Mapping[int, int]:
        """Return the GPU memory of the only process of the sandbox that uses a GPU.

        The driver counts the memory of all of them as that of the sandbox.
        """
        if not self._container.record.gpu or len(holders) != 1:
            return {}
        try:
            found = await memory.bytes_in_use(await self._root.target())
        except CryoError as error:
            self._warnings.append(f"GPU memory is not known: {error}")
            return {}
        return dict.fromkeys(holders, sum(found.values()))


def _view(
    row: GuestProcess, dumped: DumpedProcess | None, state: str | None, gpu_bytes: int | None
) -> GuestProcessView:
    known = GuestProcessView(
        pid=row.pid, parent=row.parent, name=row.command, cuda_state=state, gpu_bytes=gpu_bytes
    )
    if dumped is None:
        return known
    return msgspec.structs.replace(
        known,
        args=dumped.args,
        uid=dumped.uid,
        memory_bytes=dumped.memory_bytes,
        gpu_devices=_devices(dumped),
    )


def _devices(process: DumpedProcess) -> tuple[str, ...]:
    return tuple(sorted(path for path in process.paths if _DEVICE.fullmatch(path)))
