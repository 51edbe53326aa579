"""When the sentry is done with a save whose command may be gone.

A save goes on without `runsc checkpoint`: who kills that command, we at a timeout or the kernel for
its memory, does not stop the sentry, whose own CUDA steps would then run beside ours and invert
them. Nothing announces the end. But the image's files are open in the sentry from the first step
to the end of the save, and the steps after it are processes in the container.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from pathlib import Path

from shim.checkpoint.subject import Subject
from shim.cuda.guest import Guest
from shim.runsc.client import GuestProcess

_POLL_S = 0.05
# Between two of its steps the sentry shows nothing, for microseconds: two looks are enough.
_CALM = 2


def init_of(rows: list[GuestProcess]) -> int:
    """Return the number of the container's first process."""
    return min((row.pid for row in rows), default=0)


def strays(rows: list[GuestProcess], outsiders: tuple[int, ...]) -> list[GuestProcess]:
    """Pick the tools: children of nobody, but for init and those who came in by exec before."""
    known = {init_of(rows), *outsiders}
    return [row for row in rows if row.parent == 0 and row.pid not in known]


def writes(pid: int, folder: Path) -> bool:
    """Whether a process has a file of this folder open, though its name may be gone."""
    with contextlib.suppress(OSError):
        return any(_target(fd).startswith(f"{folder}/") for fd in Path(f"/proc/{pid}/fd").iterdir())
    return False


def _target(fd: Path) -> str:
    with contextlib.suppress(OSError):
        return str(fd.readlink())
    return ""


async def _strays_in(subject: Subject, outsiders: tuple[int, ...]) -> dict[int, Guest]:
    """Find the tools in every container of the sandbox, each with where it is."""
    guests = [one.guest for one in subject.containers]
    listed = await asyncio.gather(*(guest.ps() for guest in guests))
    pairs = zip(guests, listed, strict=True)
    return {row.pid: guest for guest, rows in pairs for row in strays(rows, outsiders)}


async def until_quiet(subject: Subject, staging: str, outsiders: tuple[int, ...]) -> None:
    """Wait for the end of a save and of its tools; one that hangs is ended after its time.

    Raises:
        TimeoutError: the save goes on beyond its time.
    """
    since_s: dict[int, float] = {}
    looks = 0
    async with asyncio.timeout(subject.config.timeouts.save):
        while looks < _CALM:
            tools = await _strays_in(subject, outsiders)
            busy = bool(tools) or (bool(staging) and writes(subject.sandbox.pid, Path(staging)))
            looks = 0 if busy else looks + 1
            now_s = time.monotonic()
            since_s = {pid: since_s.get(pid, now_s) for pid in tools}
            for pid, began_s in since_s.items():
                if now_s - began_s >= subject.config.timeouts.freeze:
                    await tools[pid].end(pid)
            await asyncio.sleep(_POLL_S)
