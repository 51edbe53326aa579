"""The storage of a file: reserved before it is written, or freed piece by piece.

Source: fallocate(2). The functions of the C library that emulate it write zeros instead.
"""

from __future__ import annotations

import ctypes
import errno
import os

_KEEP_SIZE, _PUNCH_HOLE = 1, 2
_UNKNOWN = frozenset({errno.EOPNOTSUPP, errno.ENOSYS})
_libc = ctypes.CDLL(None, use_errno=True)


def reserve(fd: int, length: int) -> None:
    """Reserve the storage of an empty file, which then has this length, if its filesystem can.

    Raises:
        OSError: there is too little, for example.
    """
    while number := _fallocate(fd, 0, 0, length):
        if number in _UNKNOWN:
            return
        if number != errno.EINTR:
            raise OSError(number, os.strerror(number))


def free(fd: int, at: int, length: int) -> None:
    """Free the storage of a part of a file; where that fails it is freed with the file."""
    _fallocate(fd, _KEEP_SIZE | _PUNCH_HOLE, at, length)


def _fallocate(fd: int, mode: int, at: int, length: int) -> int:
    """Return the number of the error, or 0."""
    where = ctypes.c_int64(at), ctypes.c_int64(length)
    failed = _libc.fallocate64(ctypes.c_int(fd), ctypes.c_int(mode), *where)
    return ctypes.get_errno() if failed else 0
