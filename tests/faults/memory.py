"""The memory that a cgroup may use, by either of the kernel's interfaces."""

from __future__ import annotations

import contextlib
import re
from pathlib import Path

_LESS = 0.9


# The files with the limit, the use and the kills, and what no limit is called.
_INTERFACES = (
    ("memory.max", "memory.current", "memory.events", "max"),
    ("memory.limit_in_bytes", "memory.usage_in_bytes", "memory.oom_control", "-1"),
)


def limits(cgroup: Path) -> bool:
    """Whether this is a cgroup that limits memory; the first interface has others beside it."""
    return any((cgroup / files[0]).exists() for files in _INTERFACES)


class Memory:
    """The limit on a cgroup that has one."""

    def __init__(self, cgroup: Path) -> None:
        names = next(files for files in _INTERFACES if (cgroup / files[0]).exists())
        self._limit, self._usage, self._events = (cgroup / name for name in names[:3])
        self._none = names[3]

    def starve(self) -> None:
        """Set the limit to what cannot be freed, so that a process that needs more is killed.

        The first interface refuses a limit below that, the second one kills at once.
        """
        wanted = int(self._usage.read_text("ascii"))
        with contextlib.suppress(OSError):
            while wanted > 1 << 20:
                self._limit.write_text(f"{wanted}", "ascii")
                wanted = int(wanted * _LESS)

    def leave(self, count: int) -> None:
        """Set the limit so that this many bytes more may be used."""
        wanted = int(self._usage.read_text("ascii")) + count
        self._limit.write_text(f"{wanted}", "ascii")

    def feed(self) -> int:
        """Lift the limit; return how often the kernel has killed because of one."""
        self._limit.write_text(self._none, "ascii")
        found = re.search(r"^oom_kill (\d+)$", self._events.read_text("ascii"), re.MULTILINE)
        return int(found[1]) if found else 0
