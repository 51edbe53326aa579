"""What runs from an installed version: pods, the sidecar with its supervisor, and its tasks."""

from __future__ import annotations

import contextlib
import enum
import os
import select
from collections.abc import Collection
from pathlib import Path
from typing import NamedTuple

from shim.host import procstat

# The names of a fork server, which holds no task itself, and of the parent of the sidecar's tasks.
_FORK_SERVER = "cryo-forkserver"
_SUPERVISOR = "cryo-supervisor"

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
    pids = [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]
    found = [(pid, _program(pid)) for pid in pids]
    return [
        User(pid, _kind_of_sandbox(pid) if program in sandboxes else _kind(pid))
        for pid, program in found
        if program in sandboxes or (program in ours and not _is_idle_fork_server(pid))
    ]


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
