"""Starts to write a part of a file to its disk, so that a later fsync has less to wait for."""

from __future__ import annotations

import ctypes

_WRITE = 2
_libc = ctypes.CDLL(None, use_errno=True)


def start(fd: int, offset: int, length: int) -> None:
    """Start it, without waiting. Source: sync_file_range(2).

    Errors are ignored: where it is not possible the fsync does all, and reports what fails.
    """
    at, size = ctypes.c_int64(offset), ctypes.c_int64(length)
    _libc.sync_file_range(ctypes.c_int(fd), at, size, ctypes.c_uint(_WRITE))
