"""Read a file of a container through the sentry, since the image may have no program for that.

The sentry's method (Fs.Cat, pkg/sentry/control/fs.go) opens it in the mounts of the sandbox's first
container. It runs outside any process, so `/proc/self` and data that depends on the process are
missing: /proc/1/net/tcp has its lines and states, but no addresses.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from pathlib import Path

from shim.errors import Unavailable
from shim.runsc import urpc

_LIMIT_BYTES = 4 << 20
_CHUNK = 64 << 10


async def read(socket: Path, files: Sequence[str]) -> bytes:
    """Read and concatenate files, up to a size limit.

    Raises:
        Unavailable: a file does not exist, they are too large, or the sentry does not answer.
    """
    reading, writing = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    sink = _Sink(reading)
    try:
        try:
            await urpc.call(socket, "Fs.Cat", {"files": list(files)}, fds=[writing])
        finally:
            os.close(writing)
        return sink.rest()
    finally:
        sink.close()


class _Sink:
    """Collects what the sentry writes, concurrently; reading stops at the limit."""

    def __init__(self, fd: int) -> None:
        self._fd: int | None = fd
        self._data = bytearray()
        asyncio.get_running_loop().add_reader(fd, self._read)

    def _read(self) -> bool:
        """Read a chunk; False when there is none."""
        if self._fd is None:
            return False
        try:
            data = os.read(self._fd, _CHUNK)
        except BlockingIOError:
            return False
        self._data += data
        if not data or len(self._data) > _LIMIT_BYTES:
            self.close()
        return bool(data)

    def rest(self) -> bytes:
        """Return all data; called after the sentry's answer, since it writes nothing after that.

        Raises:
            Unavailable: the data exceeds the limit.
        """
        while self._read():
            pass
        if len(self._data) > _LIMIT_BYTES:
            message = f"a file of the container is larger than {_LIMIT_BYTES} bytes"
            raise Unavailable(message)
        return bytes(self._data)

    def close(self) -> None:
        """Stop reading."""
        if self._fd is not None:
            asyncio.get_running_loop().remove_reader(self._fd)
            os.close(self._fd)
            self._fd = None
