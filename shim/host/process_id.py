"""The identity of a process. Standard library only: the supervisor loads it."""

from __future__ import annotations

from typing import NamedTuple


class ProcessId(NamedTuple):
    """A pid with its start time in clock ticks since boot, so that a reused pid is another one."""

    pid: int
    start: int
