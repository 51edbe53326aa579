"""What is mounted where, from /proc/self/mountinfo. Source: proc_pid_mountinfo(5)."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

_TABLE = Path("/proc/self/mountinfo")
_ESCAPED = re.compile(r"\\([0-7]{3})")
_ROOT, _POINT = 3, 4


class Mounted(NamedTuple):
    """A mount: which folder of the filesystem is mounted where, its type and its own options."""

    root: str
    point: str
    kind: str
    options: str


def parse(table: str) -> Iterator[Mounted]:
    """Yield the mounts of a table, in their order."""
    for line in table.split("\n"):
        if line:
            before, _, after = line.partition(" - ")
            fields = before.split(" ")
            kind, _, options = after.split(" ", 2)
            yield Mounted(_plain(fields[_ROOT]), _plain(fields[_POINT]), kind, options)


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
