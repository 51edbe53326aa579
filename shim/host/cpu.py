"""CPU time of a process and its descendants, for a sandbox without a cgroup.

A sandbox's guest code runs in child processes of the sentry; the time of those that have exited is
included in their parent's. Source: proc_pid_stat(5), fields 4 and 14 to 17.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

_NS_PER_TICK = 1_000_000_000 // os.sysconf("SC_CLK_TCK")


class Used(NamedTuple):
    """CPU time in nanoseconds."""

    user_ns: int
    system_ns: int


class _Row(NamedTuple):
    parent: int
    user: int
    system: int


def used_below(root: int, proc: Path = Path("/proc")) -> Used:
    """Add up the CPU time of `root` and its descendants."""
    rows = dict(_rows(proc))
    mine = [row for pid, row in rows.items() if _is_below(pid, root, rows)]
    user, system = sum(row.user for row in mine), sum(row.system for row in mine)
    return Used(user * _NS_PER_TICK, system * _NS_PER_TICK)


def _rows(proc: Path) -> Iterator[tuple[int, _Row]]:
    for entry in proc.iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError, ValueError, IndexError):
                fields = (entry / "stat").read_bytes().rpartition(b")")[2].split()
                user, system, ended_user, ended_system = map(int, fields[11:15])
                row = _Row(int(fields[1]), user + ended_user, system + ended_system)
                yield int(entry.name), row


def _is_below(pid: int, root: int, rows: dict[int, _Row]) -> bool:
    seen: set[int] = set()
    while pid != root:
        # A process may exit, and its pid be reused, while the list is being read.
        if pid not in rows or pid in seen:
            return False
        seen.add(pid)
        pid = rows[pid].parent
    return pid in rows
