"""Measures what this machine can do: the disk below a folder, its memory, and its hash.

All of it together takes about a second, and leaves nothing behind.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryFile

from shim.host import files
from shim.host.oserror import typed
from shim.image.hashing import new_hasher
from shim.model import Speeds

_MIB = 1 << 20
_BLOCK = 8 * _MIB
_MEMORY = 32 * _MIB
# How long each measurement may take, without its last block.
_WRITE_S = 0.35
_READ_S = 0.2
_MEMORY_S = 0.1
# So much is written at most, and no more than this part of what is free.
_MAX_BYTES = 1 << 30
_PART_OF_FREE = 16


def measure(folder: Path) -> Speeds:
    """Measure the filesystem of a folder, and the memory. Blocks.

    Raises:
        CryoError: the folder cannot be written to.
    """
    limit = min(_MAX_BYTES, files.free_bytes(folder) // _PART_OF_FREE)
    try:
        write, read = _disk(folder, limit)
    except OSError as error:
        raise typed(error, f"measure the disk of {folder}") from error
    source = memoryview(os.urandom(_MIB) * (_MEMORY // _MIB))
    target = memoryview(bytearray(_MEMORY))
    return Speeds(
        folder=str(folder),
        disk_write=write,
        disk_read=read,
        copy=_rate(lambda: _copied(source, target), _MEMORY_S),
        fresh=_rate(lambda: _copied_to_fresh(source), _MEMORY_S),
        digest=_rate(lambda: _digested(source), _MEMORY_S),
    )


def _rate(work: Callable[[], int], limit_s: float) -> float | None:
    """Repeat work, which returns how many bytes it moved, until 0 or the limit; return bytes/s."""
    began, done = time.monotonic(), 0
    while time.monotonic() - began < limit_s and (count := work()):
        done += count
    spent = time.monotonic() - began
    return done / spent if done else None


def _disk(folder: Path, limit: int) -> tuple[float | None, float | None]:
    """Write to a file without a name and read it; it is gone when closed, or with this process."""
    with TemporaryFile(dir=folder, buffering=0) as file, mmap.mmap(-1, _BLOCK) as memory:
        memory.write(os.urandom(_BLOCK))
        fd, at = file.fileno(), [0, 0]
        direct = bypass_cache(fd)
        with memoryview(memory) as block:

            def write() -> int:
                # The first block is small: the time must bound a slow disk, too.
                size = _BLOCK if at[0] else _MIB
                if at[0] + size > limit:
                    return 0
                count = os.pwrite(fd, block[:size], at[0])
                os.fdatasync(fd)
                at[0] += count
                return count

            def read() -> int:
                count = os.preadv(fd, [block], at[1]) if at[1] < at[0] else 0
                at[1] += count
                return count

            written = _rate(write, _WRITE_S)
            if not direct:
                os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
            return written, _rate(read, _READ_S)


def bypass_cache(fd: int) -> bool:
    """Let a file be read and written without the page cache, if its filesystem can do that."""
    try:
        fcntl.fcntl(fd, fcntl.F_SETFL, fcntl.fcntl(fd, fcntl.F_GETFL) | os.O_DIRECT)
    except OSError:
        return False
    return True


def _copied(source: memoryview, target: memoryview) -> int:
    target[:] = source
    return len(source)


def _copied_to_fresh(source: memoryview) -> int:
    """Copy into memory that the process has not touched before: the kernel clears it first."""
    with mmap.mmap(-1, len(source)) as fresh:
        fresh.write(source)
    return len(source)


def _digested(source: memoryview) -> int:
    new_hasher().update(source)
    return len(source)
