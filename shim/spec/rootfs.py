"""Looking for a program in a container's root filesystem, with its links followed inside it."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

_MAX_LINKS = 40  # as the kernel's


def find_program(rootfs: Path, candidates: Iterable[str]) -> str:
    """Return the first candidate (a container path) that is an executable file; empty if none."""
    for candidate in candidates:
        if _executable(rootfs, candidate):
            return candidate
    return ""


def _executable(rootfs: Path, name: str) -> bool:
    found = _inside(rootfs, name)
    try:
        mode = found.lstat().st_mode if found is not None else 0
    except OSError:
        return False
    return stat.S_ISREG(mode) and bool(mode & 0o111)


def _inside(rootfs: Path, name: str) -> Path | None:
    """Resolve a container path the way the container would: a link to /x stays in the rootfs."""
    todo = list(reversed(PurePosixPath(name).parts[1:]))
    at: list[str] = []
    links = 0
    while todo:
        part = todo.pop()
        if part == "..":
            at = at[:-1]
            continue
        target = _link(rootfs.joinpath(*at, part))
        if target is None:
            at.append(part)
            continue
        links += 1
        if links > _MAX_LINKS:
            return None
        pure = PurePosixPath(target)
        at = [] if pure.is_absolute() else at
        todo.extend(reversed([word for word in pure.parts if word != "/"]))
    return rootfs.joinpath(*at)


def _link(path: Path) -> str | None:
    try:
        return os.readlink(path)  # noqa: PTH115 - the words as they stand, not a Path
    except OSError:
        return None
