"""Cgroups of a test's own, and how they are mounted where no others are to be seen."""

from __future__ import annotations

import contextlib
import itertools
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.cgroups import ROOT

_TYPES = ("cgroup", "cgroup2")
_FILES = ("cpuset.mems", "cpuset.cpus")
_numbers = itertools.count()


@dataclass(frozen=True)
class Hierarchy:
    """A hierarchy of the host: where it is mounted, of which type, with which options."""

    place: Path
    type: str
    options: str

    def mount(self, root: str) -> str:
        """Return the commands that mount it below a root directory."""
        place = f"{root}{self.place}"
        return f'mkdir -p "{place}"; mount -t {self.type} -o {self.options} {self.type} "{place}"'


def hierarchies() -> list[Hierarchy]:
    """Return those that the host has."""
    lines = Path("/proc/self/mounts").read_text("utf-8").splitlines()
    found = [line.split() for line in lines]
    return [
        Hierarchy(Path(each[1]), each[2], _options(each[3]) if each[2] == "cgroup" else "rw")
        for each in found
        if each[2] in _TYPES and Path(each[1]).is_relative_to(ROOT)
    ]


def _options(text: str) -> str:
    """Return the options of a hierarchy of version 1 that name it: its controllers."""
    return ",".join(part for part in text.split(",") if part not in {"rw", "relatime"})


def mounts(root: str) -> str:
    """Return the commands that mount all hierarchies below a root directory that has a sysfs."""
    found = hierarchies()
    lines = [each.mount(root) for each in found]
    if [each.place for each in found] != [ROOT]:
        lines.insert(0, f'mount -t tmpfs -o mode=755 tmpfs "{root}{ROOT}"')
    return "\n".join(lines)


@contextlib.contextmanager
def own_cgroups() -> Iterator[list[Path]]:
    """Yield a new cgroup in each hierarchy; they are removed with those below them."""
    name = f"cryo-debian-{os.getpid()}-{next(_numbers)}"
    folders = [each.place / name for each in hierarchies()]
    try:
        for folder in folders:
            folder.mkdir()
            _prepare(folder)
        yield folders
    finally:
        for folder in folders:
            _remove(folder)


def _prepare(folder: Path) -> None:
    """Let processes enter a cgroup of version 1, where these files are empty at first."""
    for name in _FILES:
        path = folder / name
        if path.exists() and not path.read_text("utf-8").strip():
            path.write_text((folder.parent / name).read_text("utf-8"), "utf-8")


def _remove(folder: Path) -> None:
    for path in sorted(folder.rglob("*"), reverse=True):
        if path.is_dir():
            path.rmdir()
    if folder.exists():
        folder.rmdir()
