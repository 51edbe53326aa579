"""Memory of the host that processes are about to take, so that no two take the same.

A promise is a lock on as many bytes of a file as it is large: the kernel ends it with its process.
Source: fcntl(2), open file description locks.
"""

from __future__ import annotations

import errno
import fcntl
import os
import struct
from pathlib import Path

from shim.host.oserror import typed

# struct flock of 64-bit systems: type, whence, start, length, pid.
_FLOCK = "hhqqi4x"
# The byte whose lock serializes the promises; behind all of them.
_MUTEX = 1 << 60


class MemoryPromise:
    """A number of bytes that others see as taken, until it is closed."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def close(self) -> None:
        """End it. Idempotent."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def promise(file: Path, needed_bytes: int, free_bytes: int) -> MemoryPromise | int:
    """Promise memory if it is free beside what is promised; else return how much is left.

    Raises:
        CryoError: the file cannot be written, or its filesystem has no locks.
    """
    try:
        fd = os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            left = _promise(fd, needed_bytes, free_bytes)
        except BaseException:
            os.close(fd)
            raise
    except OSError as error:
        raise typed(error, f"lock {file}") from error
    if left is None:
        return MemoryPromise(fd)
    os.close(fd)
    return left


def _promise(fd: int, needed_bytes: int, free_bytes: int) -> int | None:
    _lock(fd, fcntl.F_OFD_SETLKW, fcntl.F_WRLCK, _MUTEX, 1)
    taken = _taken(fd)
    promised = sum(length for _, length in taken)
    left = max(0, free_bytes - promised)
    if needed_bytes > left:
        return left
    start = max((start + length for start, length in taken), default=0)
    _lock(fd, fcntl.F_OFD_SETLK, fcntl.F_WRLCK, start, needed_bytes)
    _lock(fd, fcntl.F_OFD_SETLK, fcntl.F_UNLCK, _MUTEX, 1)
    return None


def _taken(fd: int) -> list[tuple[int, int]]:
    """List the start and length of each promise of others."""
    found: list[tuple[int, int]] = []
    pieces = [(0, _MUTEX)]
    while pieces:
        start, end = pieces.pop()
        held = _lock(fd, fcntl.F_OFD_GETLK, fcntl.F_WRLCK, start, end - start)
        if held is None:
            continue
        found.append(held)
        beside = ((start, held[0]), (sum(held), end))
        pieces += [(first, last) for first, last in beside if first < last]
    return found


def _lock(fd: int, command: int, kind: int, start: int, length: int) -> tuple[int, int] | None:
    """Make one call; F_OFD_GETLK returns a lock of another that is in the way."""
    asked = struct.pack(_FLOCK, kind, os.SEEK_SET, start, length, 0)
    while True:
        try:
            kind, _, start, length, _ = struct.unpack(_FLOCK, fcntl.fcntl(fd, command, asked))
        except OSError as error:
            if error.errno != errno.EINTR:
                raise
        else:
            return None if kind == fcntl.F_UNLCK else (start, length)
