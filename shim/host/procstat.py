"""Reads /proc/PID/stat. Imports little, for the supervisor: no asyncio, no subprocess.

Source: proc_pid_stat(5); fields are counted from 1 there, and from 3, after the name, here.
"""

from __future__ import annotations

import os
from typing import NamedTuple

_LIMIT = 4096
_DEAD = frozenset("ZXx")


class Stat(NamedTuple):
    """The fields in use. `start` is in clock ticks since boot, `code` as from waitpid(2)."""

    state: str
    ppid: int
    start: int
    code: int

    @property
    def dead(self) -> bool:
        """Return whether it has exited, reaped or not."""
        return self.state in _DEAD


def read(pid: int) -> Stat | None:
    """Read a process's stat line; None when there is no such process."""
    try:
        fd = os.open(f"/proc/{pid}/stat", os.O_RDONLY | os.O_CLOEXEC)
    except (FileNotFoundError, ProcessLookupError):
        return None
    try:
        return parse(os.read(fd, _LIMIT))
    except ProcessLookupError:
        return None
    finally:
        os.close(fd)


def parse(line: bytes) -> Stat | None:
    """Parse a stat line; the name in it may contain spaces and parentheses."""
    fields = line[line.rfind(b")") + 1 :].split()
    if len(fields) < 20:  # noqa: PLR2004 - field 22 counted from field 3
        return None
    code = int(fields[49]) if len(fields) > 49 else 0  # noqa: PLR2004 - field 52
    return Stat(fields[0].decode("ascii", "replace"), int(fields[1]), int(fields[19]), code)


def start_time(pid: int) -> int | None:
    """Return when a process started, in clock ticks since boot; None when it is gone."""
    found = read(pid)
    return found.start if found else None
