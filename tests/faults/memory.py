"""The memory limit of a cgroup, version 1 or 2."""

from __future__ import annotations

import contextlib
import re
from pathlib import Path

_LESS = 0.9


# The files of the limit, the usage and the kills, and the value for no limit.
_INTERFACES = (
    ("memory.max", "memory.current", "memory.events", "max"),
    ("memory.limit_in_bytes", "memory.usage_in_bytes", "memory.oom_control", "-1"),
)


def limits(cgroup: Path) -> bool:
    """Whether this cgroup limits memory; on version 1 those of other controllers do not."""
    return any((cgroup / files[0]).exists() for files in _INTERFACES)


class Memory:
    """The memory limit of a cgroup."""

    def __init__(self, cgroup: Path) -> None:
        names = next(files for files in _INTERFACES if (cgroup / files[0]).exists())
        self._limit, self._usage, self._events = (cgroup / name for name in names[:3])
        self._none = names[3]

    def starve(self) -> None:
        """Lower the limit to what cannot be freed, so that a process that needs more is killed.

        Version 1 refuses a limit below that, version 2 kills at once.
        """
        wanted = int(self._usage.read_text("ascii"))
        with contextlib.suppress(OSError):
            while wanted > 1 << 20:
                self._limit.write_text(f"{wanted}", "ascii")
                wanted = int(wanted * _LESS)

    def leave(self, count: int) -> None:
        """Set the limit to this many bytes above the usage."""
        wanted = int(self._usage.read_text("ascii")) + count
        self._limit.write_text(f"{wanted}", "ascii")

    def feed(self) -> int:
        """Remove the limit; return how many processes the kernel has killed because of it."""
        self._limit.write_text(self._none, "ascii")
        found = re.search(r"^oom_kill (\d+)$", self._events.read_text("ascii"), re.MULTILINE)
        return int(found[1]) if found else 0
