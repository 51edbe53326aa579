"""What runs from an installed version: pods, the sidecar with its supervisor, and its tasks."""

from __future__ import annotations

import contextlib
import enum
import os
import select
import signal
from collections.abc import Collection
from pathlib import Path
from typing import NamedTuple

from shim.errors import Unavailable
from shim.host import procstat

# The names of a fork server, which holds no task itself, and of the parent of the sidecar's tasks.
_FORK_SERVER = "cryo-forkserver"
_SUPERVISOR = "cryo-supervisor"

_EXIT_S = 10.0

Identity = tuple[int, int]


class Kind(enum.Enum):
    """What a process belongs to."""

    POD = enum.auto()
    TASK = enum.auto()
    SIDECAR = enum.auto()
    SUPERVISOR = enum.auto()


class User(NamedTuple):
    """A process of a version."""

    pid: int
    kind: Kind


def running(python: Path, others: Collection[Path]) -> list[User]:
    """Return the processes of a Python and of other programs, but for idle fork servers."""
    ours, sandboxes = {identity(python)}, {identity(path) for path in others}
    return [
        User(pid, _kind_of_sandbox(pid) if program in sandboxes else _kind(pid))
        for pid, program in _processes()
        if program in sandboxes or (program in ours and not _is_idle_fork_server(pid))
    ]


def idle_fork_servers(python: Path) -> list[int]:
    """Return the fork servers of a Python that have no shim."""
    ours = identity(python)
    return [
        pid
        for pid, program in _processes()
        if program == ours and _name(pid) == _FORK_SERVER and not children(pid)
    ]


def end(pid: int) -> None:
    """End a process that has nothing left to do.

    Raises:
        Unavailable: it does not end.
    """
    try:
        os.kill(pid, signal.SIGTERM)
    except ProcessLookupError:
        return
    if not wait_for_exit(pid, _EXIT_S):
        message = f"process {pid} of an installed version did not end in {_EXIT_S:.0f} s"
        raise Unavailable(message, remedy=f"kill {pid}, and run the installer again")


def identity(program: Path) -> Identity:
    """Return what identifies a file whatever its path is."""
    found = program.stat()
    return found.st_dev, found.st_ino


def wait_for_exit(pid: int, timeout_s: float) -> bool:
    """Wait until a process has exited; return whether it has within the timeout."""
    try:
        fd = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        return bool(select.select([fd], [], [], timeout_s)[0])
    finally:
        os.close(fd)


def children(pid: int) -> list[int]:
    """Return the children of a process of one thread."""
    return [int(word) for word in _text(pid, f"task/{pid}/children").split()]


def _processes() -> list[tuple[int, Identity | None]]:
    pids = [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]
    return [(pid, _program(pid)) for pid in pids]


def _program(pid: int) -> Identity | None:
    with contextlib.suppress(OSError):  # it has exited
        return identity(Path(f"/proc/{pid}/exe"))
    return None


def _text(pid: int, name: str) -> str:
    with contextlib.suppress(OSError):  # it has exited
        return Path(f"/proc/{pid}/{name}").read_text("utf-8", "replace")
    return ""


def _name(pid: int) -> str:
    return _text(pid, "comm").strip()


def _kind(pid: int) -> Kind:
    """Return what a process of our Python is; `cryo serve` is the sidecar."""
    if _name(pid) == _SUPERVISOR:
        return Kind.SUPERVISOR
    words = _text(pid, "cmdline").split("\0")
    scripts = [place for place, word in enumerate(words) if word.endswith("/libexec/cryo")]
    return Kind.SIDECAR if scripts and "serve" in words[scripts[0] :] else Kind.POD


def _kind_of_sandbox(pid: int) -> Kind:
    """Return whether a process of runsc is that of a task of the sidecar, or of a pod."""
    found = procstat.read(pid)
    while found is not None and found.ppid > 1:
        if _name(found.ppid) == _SUPERVISOR:
            return Kind.TASK
        found = procstat.read(found.ppid)
    return Kind.POD


def _is_idle_fork_server(pid: int) -> bool:
    name = _name(pid)
    return not name or (name == _FORK_SERVER and not children(pid))
