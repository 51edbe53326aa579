"""Processes: their identity, descendants, exit and memory."""

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
# This project and runsc use no longer ones.
_COMMAND_LINE_BYTES = 128 << 10


async def wait_pidfd(pid: int, start: int | None = None) -> None:
    """Wait until the process has exited (it may be a zombie); return at once if it is gone."""
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
    """Kill a process and its descendants; it is stopped first, so that it cannot fork more.

    Returns the descendants with their start times; their resources are free once they have exited.
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
    """Wait until each of these processes, given by pid and start time, has exited."""
    for pid, start in processes:
        await wait_pidfd(pid, start)


def children(pid: int) -> list[int]:
    """List a process's children, including orphans that it inherited."""
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
    """Wait until a read of `fd` would not block."""
    loop = asyncio.get_running_loop()
    ready: asyncio.Future[None] = loop.create_future()

    def on_readable() -> None:
        loop.remove_reader(fd)
        if not ready.done():
            ready.set_result(None)

    loop.add_reader(fd, on_readable)
    try:
        await ready
    finally:
        loop.remove_reader(fd)


def resident_bytes(sandbox_pid: int) -> int:
    """Return the resident guest memory: the sentry's memory file, else its VmRSS.

    Data that containers wrote to an overlay on disk is included, since a save writes it too.

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
    """Yield each open file of a process: its link in /proc, and the link's target."""
    with contextlib.suppress(OSError), os.scandir(f"/proc/{pid}/fd") as entries:
        for entry in entries:
            with contextlib.suppress(OSError):
                # There may be thousands of open files.
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
    """Return the command line of a process; empty if it is gone."""
    try:
        with Path(f"/proc/{pid}/cmdline").open("rb") as file:
            text = file.read(_COMMAND_LINE_BYTES).decode("utf-8", "replace")
    except OSError:
        return ()
    return tuple(text.split("\0")[:-1])
