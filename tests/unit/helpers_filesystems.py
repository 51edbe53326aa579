"""Filesystems of a test: a small disk with ext4, and one that refuses direct writes."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root")
needs_disk = pytest.mark.skipif(
    os.geteuid() != 0
    or not Path("/dev/loop-control").exists()
    or shutil.which("mkfs.ext4") is None,
    reason="a small disk needs root, loop devices and mkfs.ext4",
)


def _run(*argv: str) -> None:
    subprocess.run(argv, check=True, capture_output=True, timeout=30)


@contextlib.contextmanager
def _mounted(path: Path, *argv: str) -> Iterator[Path]:
    path.mkdir()
    _run("mount", *argv, str(path))
    try:
        yield path
    finally:
        _run("umount", "-l", str(path))


@contextlib.contextmanager
def small_disk(folder: Path, size_bytes: int) -> Iterator[Path]:
    """Mount a disk of this size with ext4 within the block."""
    file = folder / "disk.ext4"
    file.touch()
    os.truncate(file, size_bytes)
    _run("mkfs.ext4", "-q", "-m", "0", str(file))
    with _mounted(folder / "disk", "-o", "loop", str(file)) as path:
        yield path


@contextlib.contextmanager
def without_direct_writes(folder: Path) -> Iterator[Path]:
    """Mount a ramfs within the block: it has neither direct writes nor fallocate."""
    with _mounted(folder / "ramfs", "-t", "ramfs", "ramfs") as path:
        yield path
