"""The page cache: how much of a file is in it, by cachestat(2), and reading a file into it."""

from __future__ import annotations

import ctypes
import mmap
import os
from collections.abc import Callable

# From Linux 6.5 on, under the same number on every architecture.
_CACHESTAT = 451
# Small enough to stop soon.
_CHUNK_BYTES = 8 << 20
# One thread submits reads faster than most disks answer; a second one helps where it has to wait.
READERS = 2


class _Range(ctypes.Structure):
    """struct cachestat_range; a length of 0 is to the end of the file."""

    _fields_ = (("off", ctypes.c_uint64), ("len", ctypes.c_uint64))


class _Found(ctypes.Structure):
    """struct cachestat, in pages."""

    _fields_ = tuple(
        (name, ctypes.c_uint64)
        for name in ("cache", "dirty", "writeback", "evicted", "recently_evicted")
    )


def cached_bytes(fd: int) -> int | None:
    """Return how much of a file is in the page cache; None if the kernel does not say."""
    found = _Found()
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.syscall(_CACHESTAT, fd, ctypes.byref(_Range()), ctypes.byref(found), 0):
        return None  # an older kernel, or a filesystem without a page cache
    return int(found.cache) * mmap.PAGESIZE


def read_ahead(fd: int, part: int, is_over: Callable[[], bool]) -> None:
    """Let the kernel read a file into the page cache, without copying it, until `is_over`.

    `part` is one of `READERS`, which read the chunks in turn.
    """
    size_bytes = os.fstat(fd).st_size
    for at in range(part * _CHUNK_BYTES, size_bytes, READERS * _CHUNK_BYTES):
        if is_over():
            return
        os.posix_fadvise(fd, at, _CHUNK_BYTES, os.POSIX_FADV_WILLNEED)
