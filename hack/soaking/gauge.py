"""What a sidecar or a shim holds, measured now and then: it must not grow."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

_MIB = 1024
# At the begin and at the end of a run, as a part of it.
_PART = 0.2


class Sample(NamedTuple):
    """One look: seconds since the begin, and what there was."""

    at_s: float
    fds: int
    threads: int
    memory_mib: float
    mounts: int
    files: int
    books: int = 0


# How much more there may be at the end than at the begin.
ROOM = {"fds": 4.0, "threads": 8.0, "memory_mib": 12.0, "mounts": 0.0, "files": 2.0, "books": 16.0}


class Gauge:
    """Looks at the sidecar of a machine and at its supervisor, or at a shim, which has none."""

    def __init__(
        self, sidecar: int, folders: tuple[Path, ...], books: Callable[[], int] = lambda: 0
    ) -> None:
        """Take the process, the folders whose files count, and who counts its tables."""
        self._sidecar = sidecar
        self._folders = folders
        self._books = books
        self._began = time.monotonic()
        self.samples: list[Sample] = []

    def look(self) -> Sample:
        """Take a sample."""
        pids = [self._sidecar, *self._supervisors()]
        one = Sample(
            at_s=round(time.monotonic() - self._began, 1),
            fds=sum(len(os.listdir(f"/proc/{pid}/fd")) for pid in pids),  # noqa: PTH208 - a count
            threads=sum(len(os.listdir(f"/proc/{pid}/task")) for pid in pids),  # noqa: PTH208
            memory_mib=round(sum(_pss_kib(pid) for pid in pids) / _MIB, 1),
            mounts=len(Path(f"/proc/{self._sidecar}/mountinfo").read_text("utf-8").splitlines()),
            files=sum(_count(folder) for folder in self._folders),
            books=self._books(),
        )
        self.samples.append(one)
        return one

    def _supervisors(self) -> Iterator[int]:
        state = str(self._folders[0]).encode()
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit() and entry.name != str(self._sidecar):
                try:
                    words = (entry / "cmdline").read_bytes().split(b"\0")
                except OSError:
                    continue
                if b"shim.host.supervisor" in words and state in words:
                    yield int(entry.name)

    def growth(self) -> dict[str, float]:
        """Return how much more there was at the end than at the begin, each a median."""
        count = max(1, int(len(self.samples) * _PART))
        return _more(self.samples[:count], self.samples[-count:])

    def left(self) -> dict[str, float]:
        """Return how much more there is in the last look than in the first, both without tasks.

        Memory is compared under load, the middle third of the run with the last: what the largest
        number of tasks has needed once an allocator does not give back.
        """
        third = len(self.samples) // 3
        loaded = _more(self.samples[third : 2 * third], self.samples[2 * third : -1])
        return {**_more(self.samples[:1], self.samples[-1:]), "memory_mib": loaded["memory_mib"]}


def _count(folder: Path) -> int:
    """Count what is below a folder; what goes away meanwhile does not count."""
    return sum(len(names) + len(leaves) for _, names, leaves in os.walk(folder))


def complaints(grown: dict[str, float]) -> list[str]:
    """Name what has grown by more than it may."""
    return [f"{name} grew by {by:g}" for name, by in grown.items() if by > ROOM[name]]


def _more(first: list[Sample], last: list[Sample]) -> dict[str, float]:
    return {name: round(_middle(last, name) - _middle(first, name), 1) for name in ROOM}


def _middle(samples: list[Sample], name: str) -> float:
    return statistics.median(float(getattr(one, name)) for one in samples)


def _pss_kib(pid: int) -> int:
    text = Path(f"/proc/{pid}/smaps_rollup").read_text("ascii")
    return next(int(line.split()[1]) for line in text.splitlines() if line.startswith("Pss:"))
