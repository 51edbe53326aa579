"""Finds a program in a container's root filesystem, resolving links within it."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable
from pathlib import Path

from shim.host.rooted import open_in_root, root_folder


def find_program(rootfs: Path, candidates: Iterable[str]) -> str:
    """Return the first candidate (a container path) that is an executable file; empty if none.

    Raises:
        InvalidArgument: a candidate has a NUL.
    """
    try:
        with root_folder(rootfs) as root:
            return next((name for name in candidates if _executable(root, name)), "")
    except OSError:
        return ""


def _executable(root: int, name: str) -> bool:
    try:
        fd = open_in_root(root, name)
    except OSError:
        return False
    try:
        mode = os.fstat(fd).st_mode
    finally:
        os.close(fd)
    return stat.S_ISREG(mode) and bool(mode & 0o111)
