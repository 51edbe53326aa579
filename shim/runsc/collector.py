"""Collects the output of a program from a pipe, without waiting for the end of the pipe.

A descendant of the program may keep the pipe open: the output is what it holds when the program
exits.
"""

from __future__ import annotations

import asyncio
import os

STDOUT_LIMIT = 1 << 20
STDERR_LIMIT = 64 << 10
_CHUNK = 64 << 10


class Collector:
    """Reads a pipe as data arrives and keeps the first `limit` bytes."""

    def __init__(self, fd: int, limit: int) -> None:
        self._fd = fd
        self._limit = limit
        self._data = bytearray()
        self._loop = asyncio.get_running_loop()
        os.set_blocking(fd, False)
        self._loop.add_reader(fd, self._read)

    def _read(self) -> bool:
        """Read one chunk; False when there is no more data."""
        try:
            data = os.read(self._fd, _CHUNK)
        except BlockingIOError:
            return False
        if not data:
            self._loop.remove_reader(self._fd)
            return False
        self._data += data[: max(0, self._limit - len(self._data))]
        return True

    def finish(self) -> bytes:
        """Read the data available now and stop; do not wait for remaining writers."""
        taken = 0
        while taken < self._limit and self._read():
            taken += _CHUNK
        self._loop.remove_reader(self._fd)
        return bytes(self._data)
