"""The content of a part of a file: in memory if it is small, else read again when it is sent."""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from typing import IO

from shim.distribution.blob import FileSlice, digest_of, digest_of_stream
from shim.errors import ImageCorrupt
from shim.model import Value

# A larger part is not kept in memory unless it is compressed or encrypted.
_IN_MEMORY_BYTES = 16 << 20
_SAMPLE_BYTES = 64 << 10


class Part(Value):
    """A part of an open file of an image."""

    file: str
    fd: int
    offset: int
    length: int


class Content:
    """What a part has; `check` is called while it is read, and raises to stop."""

    def __init__(self, part: Part, check: Callable[[], None]) -> None:
        """Read it, to compute its digest.

        Raises:
            ImageCorrupt: the file was truncated meanwhile.
        """
        self._part = part
        self._check = check
        self._data = self._read() if part.length <= _IN_MEMORY_BYTES else None
        if self._data is not None:
            self.digest = digest_of(self._data)
        else:
            self.digest = digest_of_stream(self._slice(), check)

    @property
    def size_bytes(self) -> int:
        """Return how many bytes it has."""
        return self._part.length

    @property
    def sample(self) -> bytes:
        """Return some bytes from its middle."""
        middle = max(0, self._part.length // 2 - _SAMPLE_BYTES // 2)
        with self.open() as stream:
            stream.seek(middle)
            return stream.read(_SAMPLE_BYTES)

    def open(self) -> IO[bytes]:
        """Return it as a stream."""
        if self._data is not None:
            return io.BytesIO(self._data)
        return self._slice()

    def read(self) -> bytes:
        """Return all of it in memory."""
        return self._data if self._data is not None else self._read()

    def _read(self) -> bytes:
        part = self._part
        # At once: pieces that are joined would be copied, into memory that is new each time.
        data = os.pread(part.fd, part.length, part.offset)
        if len(data) != part.length:
            message = f"{part.file} was truncated while it was read"
            raise ImageCorrupt(message, remedy="use another image")
        return data

    def _slice(self) -> IO[bytes]:
        part = self._part
        return _Checked(part.fd, part.offset, part.length, self._check)  # type: ignore[return-value]


class _Checked(FileSlice):
    """A part of a file whose reads end when the transfer does."""

    def __init__(self, fd: int, offset: int, size_bytes: int, check: Callable[[], None]) -> None:
        super().__init__(fd, offset, size_bytes)
        self._check = check

    def readinto(self, buffer: memoryview, /) -> int:  # type: ignore[override]  # as FileSlice
        """Read, unless the transfer has ended."""
        self._check()
        return super().readinto(buffer)
