"""Measures a filesystem: its free space, and a short write past the page cache."""

from __future__ import annotations

import mmap
import os
import time
from pathlib import Path
from tempfile import TemporaryFile
from typing import NamedTuple, Protocol

from shim.host import filesystem
from shim.host.oserror import typed
from shim.image.speeds import bypass_cache

_BLOCK = 4 << 20
_WRITE_S = 0.15
_MAX_BYTES = 64 << 20


class Space(NamedTuple):
    """The free bytes and files of a filesystem; `in_memory` is whether it is a tmpfs."""

    bytes: int
    files: int
    in_memory: bool


class Write(NamedTuple):
    """A short write: its speed, and whether it went past the page cache."""

    bytes_per_s: float
    direct: bool


class Disk(Protocol):
    """What the checks need of filesystems."""

    def space(self, folder: Path) -> Space:
        """Measure the space of a filesystem."""

    def write(self, folder: Path) -> Write:
        """Write a file without a name."""


class RealDisk:
    """The filesystems of this host."""

    def space(self, folder: Path) -> Space:
        """Measure the space of a filesystem; one that does not count files has plenty.

        Raises:
            CryoError: it cannot be measured.
        """
        try:
            found = os.statvfs(folder)
        except OSError as error:
            raise typed(error, f"measure {folder}") from error
        free_files = found.f_favail if found.f_files else 1 << 62
        return Space(found.f_bavail * found.f_frsize, free_files, filesystem.is_in_memory(folder))

    def write(self, folder: Path) -> Write:
        """Write a file without a name, which is gone when it is closed.

        Raises:
            CryoError: it cannot be written.
        """
        try:
            with TemporaryFile(dir=folder, buffering=0) as file, mmap.mmap(-1, _BLOCK) as block:
                block.write(os.urandom(_BLOCK))
                direct = bypass_cache(file.fileno())
                return Write(_written_per_s(file.fileno(), block), direct)
        except OSError as error:
            raise typed(error, f"write to {folder}") from error


def _written_per_s(fd: int, block: mmap.mmap) -> float:
    began, done = time.monotonic(), 0
    with memoryview(block) as data:
        while done < _MAX_BYTES and (not done or time.monotonic() - began < _WRITE_S):
            done += os.pwrite(fd, data, done)
            os.fdatasync(fd)
    return done / (time.monotonic() - began)
