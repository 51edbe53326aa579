"""Processes: exactly one of them, its end as something to await, and what memory it holds."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Iterable, Iterator
from pathlib import Path

from shim.errors import NotFound
from shim.host.oserror import typed
from shim.host.pid_identity import is_alive, kill, open_pidfd
from shim.host.procstat import start_time

__all__ = [
    "children",
    "command_line",
    "is_alive",
    "kill",
    "kill_tree",
    "open_pidfd",
    "readable",
    "resident_bytes",
    "start_time",
    "until_ended",
    "wait_pidfd",
]

_GUEST_MEMORY = "/memfd:runsc-memory"
# Of overlay2=...:self, and of ...:dir=FOLDER (runsc/boot/gofer_conf.go).
_OVERLAY_FILES = (".gvisor.filestore.", "runsc-filestore-")
_BLOCK = 512
# Longer ones are not ours, nor runsc's.
_COMMAND_LINE_BYTES = 128 << 10


async def wait_pidfd(pid: int, start: int | None = None) -> None:
    """Return when the process has exited (it may be a zombie still); at once when it is gone."""
    try:
        fd = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    except OSError as error:
        raise typed(error, f"watch process {pid}") from error
    try:
        if start is None or start_time(pid) == start:
            await readable(fd)
    finally:
        os.close(fd)


def kill_tree(pid: int, start: int) -> list[tuple[int, int]]:
    """Kill a process and all below it; it is stopped first, so that it cannot add to them.

    Returns those below it, with their start times: what they hold is free once they have exited.
    """
    if not is_alive(pid, start):
        return []
    kill(pid, start, signal.SIGSTOP)
    below = [(each, start_time(each)) for each in _below(pid)]
    kill(pid, start, signal.SIGKILL)
    known = [(each, since) for each, since in below if since is not None]
    for each, since in known:
        kill(each, since, signal.SIGKILL)
    return known


async def until_ended(processes: Iterable[tuple[int, int]]) -> None:
    """Return when each of these has exited, by its number and start time."""
    for pid, start in processes:
        await wait_pidfd(pid, start)


def children(pid: int) -> list[int]:
    """List a process's children: those that it started, and orphans that were handed to it."""
    found: list[int] = []
    for path in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            found += map(int, path.read_text("ascii").split())
    return found


def _below(pid: int) -> Iterator[int]:
    for child in children(pid):
        yield child
        yield from _below(child)


async def readable(fd: int) -> None:
    """Return when a read of `fd` would not wait."""
    loop = asyncio.get_running_loop()
    ready: asyncio.Future[None] = loop.create_future()

    def wake() -> None:
        loop.remove_reader(fd)
        if not ready.done():
            ready.set_result(None)

    loop.add_reader(fd, wake)
    try:
        await ready
    finally:
        loop.remove_reader(fd)


def resident_bytes(sandbox_pid: int) -> int:
    """Measure the guest memory that is really there: the sentry's memory file, else its VmRSS.

    What containers wrote into an overlay on disk counts too: a save writes it as it does memory.

    Raises:
        NotFound: the process is gone.
    """
    memory = overlay = None
    for name, target in _open_files(sandbox_pid):
        if memory is None and target.startswith(_GUEST_MEMORY):
            memory = _allocated(name)
        elif Path(target).name.startswith(_OVERLAY_FILES):
            overlay = (overlay or 0) + (_allocated(name) or 0)
    return (_vm_rss_bytes(sandbox_pid) if memory is None else memory) + (overlay or 0)


def _open_files(pid: int) -> Iterator[tuple[str, str]]:
    """Give each open file of a process: its link in /proc, and where that points."""
    with contextlib.suppress(OSError), os.scandir(f"/proc/{pid}/fd") as entries:
        for entry in entries:
            with contextlib.suppress(OSError):
                # Thousands of links, where a container has as many files open.
                yield entry.path, os.readlink(entry.path)  # noqa: PTH115


def _allocated(path: str) -> int | None:
    try:
        return Path(path).stat().st_blocks * _BLOCK
    except OSError:
        return None


def _vm_rss_bytes(pid: int) -> int:
    try:
        text = Path(f"/proc/{pid}/status").read_text("utf-8", "replace")
    except OSError as error:
        message = f"process {pid} is gone"
        raise NotFound(message) from error
    for line in text.splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    return 0


def command_line(pid: int) -> tuple[str, ...]:
    """Return the words that a process was started with; none where it is gone."""
    try:
        with Path(f"/proc/{pid}/cmdline").open("rb") as file:
            text = file.read(_COMMAND_LINE_BYTES).decode("utf-8", "replace")
    except OSError:
        return ()
    return tuple(text.split("\0")[:-1])
