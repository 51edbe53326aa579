"""What is mounted where, from /proc/self/mountinfo. Source: proc_pid_mountinfo(5)."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

_TABLE = Path("/proc/self/mountinfo")
_ESCAPED = re.compile(r"\\([0-7]{3})")
_ROOT, _POINT, _FLAGS = 3, 4, 5


class Mounted(NamedTuple):
    """A mount: which folder of the filesystem is mounted where, its type and its own options.

    `flags` are those of the mount, such as `ro` and `noexec`, `options` those of the filesystem.
    """

    root: str
    point: str
    kind: str
    options: str
    flags: str


def parse(table: str) -> Iterator[Mounted]:
    """Yield the mounts of a table, in their order."""
    for line in table.split("\n"):
        if line:
            before, _, after = line.partition(" - ")
            fields = before.split(" ")
            kind, _, options = after.split(" ", 2)
            places = _plain(fields[_ROOT]), _plain(fields[_POINT])
            yield Mounted(*places, kind, options, fields[_FLAGS])


def holding(path: Path, table: str) -> Mounted | None:
    """Return the mount of a table that a path is on; None if the table has none."""
    best: Mounted | None = None
    for one in parse(table):
        # Of mounts at the same point the last one covers the others.
        nearer = best is None or len(Path(one.point).parts) >= len(Path(best.point).parts)
        if nearer and path.is_relative_to(one.point):
            best = one
    return best


def filesystem(path: Path, table: Path = _TABLE) -> str | None:
    """Return the type of the filesystem that is mounted at a path; None if none is.

    The table is read only if the path and its parent are on two devices.
    """
    if path.lstat().st_dev == path.parent.lstat().st_dev:
        return None
    mounts = parse(os.fsdecode(table.read_bytes()))
    kinds = [one.kind for one in mounts if one.point == str(path)]
    return kinds[-1] if kinds else None  # the last one covers others


def _plain(text: str) -> str:
    """Undo the kernel's escapes in octal: those of white space, backslash and number sign."""
    return _ESCAPED.sub(lambda match: chr(int(match.group(1), 8)), text)
