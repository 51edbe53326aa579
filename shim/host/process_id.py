"""The identity of a process. Standard library only: the supervisor imports it."""

from __future__ import annotations

from typing import NamedTuple


class ProcessId(NamedTuple):
    """A pid with its start time in clock ticks since boot; a reused pid compares unequal."""

    pid: int
    start: int
