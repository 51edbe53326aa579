"""Measures the resources of a sidecar or a shim, which must not grow."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

_MIB = 1024
# The fraction of a run that counts as its beginning or its end.
_PART = 0.2


class Sample(NamedTuple):
    """A sample: seconds since the start, and the resources then."""

    at_s: float
    fds: int
    threads: int
    memory_mib: float
    mounts: int
    files: int
    books: int = 0


# The growth that is tolerated.
ROOM = {"fds": 4.0, "threads": 8.0, "memory_mib": 12.0, "mounts": 0.0, "files": 2.0, "books": 16.0}


class Gauge:
    """Samples the sidecar of a machine and its supervisor, or a shim, which has no supervisor."""

    def __init__(
        self, sidecar: int, folders: tuple[Path, ...], books: Callable[[], int] = lambda: 0
    ) -> None:
        """Take the pid, the directories whose files are counted, and a count of table entries."""
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
        """Return the growth from the beginning to the end, as a difference of medians."""
        count = max(1, int(len(self.samples) * _PART))
        return _more(self.samples[:count], self.samples[-count:])

    def left(self) -> dict[str, float]:
        """Return the growth from the first sample to the last, both without tasks.

        Memory is compared under load, the middle third of the run with the last, because an
        allocator does not return the memory of the largest number of tasks.
        """
        third = len(self.samples) // 3
        loaded = _more(self.samples[third : 2 * third], self.samples[2 * third : -1])
        return {**_more(self.samples[:1], self.samples[-1:]), "memory_mib": loaded["memory_mib"]}


def _count(folder: Path) -> int:
    """Count the files and directories below a directory, which may change meanwhile."""
    return sum(len(names) + len(leaves) for _, names, leaves in os.walk(folder))


def complaints(grown: dict[str, float]) -> list[str]:
    """Return a message for each resource that has grown by more than is tolerated."""
    return [f"{name} grew by {by:g}" for name, by in grown.items() if by > ROOM[name]]


def _more(first: list[Sample], last: list[Sample]) -> dict[str, float]:
    return {name: round(_middle(last, name) - _middle(first, name), 1) for name in ROOM}


def _middle(samples: list[Sample], name: str) -> float:
    return statistics.median(float(getattr(one, name)) for one in samples)


def _pss_kib(pid: int) -> int:
    text = Path(f"/proc/{pid}/smaps_rollup").read_text("ascii")
    return next(int(line.split()[1]) for line in text.splitlines() if line.startswith("Pss:"))
