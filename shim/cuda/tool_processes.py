"""Processes that the sentry itself starts in containers around a save: cuda-checkpoint."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Collection, Sequence

from shim.cuda.guest import Guest
from shim.runsc.output import GuestProcess


def init_of(rows: list[GuestProcess]) -> int:
    """Return the number of the container's first process."""
    return min((row.pid for row in rows), default=0)


def tool_processes(rows: list[GuestProcess], others: Collection[int]) -> list[GuestProcess]:
    """Pick the tools: processes without a parent, except init and earlier `others` (execs)."""
    known = {init_of(rows), *others}
    return [row for row in rows if row.parent == 0 and row.pid not in known]


class ToolProcesses:
    """The tools in all containers of a sandbox; `limit_s` of each counts from its first sight."""

    def __init__(self, guests: Sequence[Guest], others: Collection[int], limit_s: float) -> None:
        self._guests = guests
        self._others = others
        self._limit_s = limit_s
        self._since_s: dict[int, float] = {}
        self._where: dict[int, Guest] = {}

    async def look(self) -> bool:
        """List them; return whether there are any."""
        listed = await asyncio.gather(*(guest.ps() for guest in self._guests))
        pairs = zip(self._guests, listed, strict=True)
        self._where = {
            row.pid: guest for guest, rows in pairs for row in tool_processes(rows, self._others)
        }
        now_s = time.monotonic()
        self._since_s = {pid: self._since_s.get(pid, now_s) for pid in self._where}
        return bool(self._where)

    def late(self) -> dict[int, Guest]:
        """Return those that have run for too long, each with its container."""
        now_s = time.monotonic()
        return {
            pid: self._where[pid]
            for pid, since_s in self._since_s.items()
            if now_s - since_s >= self._limit_s
        }
