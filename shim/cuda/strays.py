"""What the sentry runs in containers beside a save: tools of its own, that may hang."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Collection, Sequence

from shim.cuda.guest import Guest
from shim.runsc.client import GuestProcess


def init_of(rows: list[GuestProcess]) -> int:
    """Return the number of the container's first process."""
    return min((row.pid for row in rows), default=0)


def strays(rows: list[GuestProcess], outsiders: Collection[int]) -> list[GuestProcess]:
    """Pick the tools: children of nobody, but for init and those who came in by exec before."""
    known = {init_of(rows), *outsiders}
    return [row for row in rows if row.parent == 0 and row.pid not in known]


class Strays:
    """The tools in all containers of a sandbox; each has its own time, from when it is seen."""

    def __init__(self, guests: Sequence[Guest], outsiders: Collection[int], limit_s: float) -> None:
        self._guests = guests
        self._outsiders = outsiders
        self._limit_s = limit_s
        self._since_s: dict[int, float] = {}
        self._where: dict[int, Guest] = {}

    async def look(self) -> bool:
        """Look once; return whether there are any."""
        listed = await asyncio.gather(*(guest.ps() for guest in self._guests))
        pairs = zip(self._guests, listed, strict=True)
        self._where = {
            row.pid: guest for guest, rows in pairs for row in strays(rows, self._outsiders)
        }
        now_s = time.monotonic()
        self._since_s = {pid: self._since_s.get(pid, now_s) for pid in self._where}
        return bool(self._where)

    def late(self) -> dict[int, Guest]:
        """Return those whose time was over at the last look, each with where it is."""
        now_s = time.monotonic()
        return {
            pid: self._where[pid]
            for pid, since_s in self._since_s.items()
            if now_s - since_s >= self._limit_s
        }
