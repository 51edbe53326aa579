"""Blobs: content with a digest, and descriptors of it, as OCI has them."""

from __future__ import annotations

import hashlib
import io
import os
import re
from collections.abc import Callable, Iterable, Iterator
from typing import Annotated, Protocol

import msgspec

from shim.errors import ImageCorrupt
from shim.model import Value

_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
MAX_BLOB_BYTES = 1 << 40
PIECE_BYTES = 1 << 20

Size = Annotated[int, msgspec.Meta(ge=0, le=MAX_BLOB_BYTES)]
Texts = Annotated[
    dict[
        Annotated[str, msgspec.Meta(max_length=256)], Annotated[str, msgspec.Meta(max_length=4096)]
    ],
    msgspec.Meta(max_length=64),
]


class Descriptor(Value, rename={"media_type": "mediaType", "artifact_type": "artifactType"}):
    """A reference to a blob by its digest, with its size in bytes."""

    media_type: Annotated[str, msgspec.Meta(max_length=255)]
    digest: Annotated[str, msgspec.Meta(pattern=f"^{_DIGEST.pattern}$")]
    size: Size
    annotations: Texts = {}
    artifact_type: Annotated[str, msgspec.Meta(max_length=255)] | None = None


def digest_of(data: bytes | memoryview) -> str:
    """Return the digest of a blob in memory."""
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def is_digest(text: str) -> bool:
    """Whether a text is a SHA-256 digest in OCI's form."""
    return _DIGEST.fullmatch(text) is not None


class FileSlice(io.RawIOBase):
    """A part of an open file as a stream of its own; reading it does not move the file's offset."""

    def __init__(self, fd: int, offset: int, size_bytes: int) -> None:
        super().__init__()
        self._fd = fd
        self._offset = offset
        self._size_bytes = size_bytes
        self._at = 0

    def readable(self) -> bool:
        """Return that it can be read."""
        return True

    def seekable(self) -> bool:
        """Return that it can be read again."""
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        """Move the position; return it."""
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._size_bytes}[whence]
        self._at = max(0, min(self._size_bytes, start + offset))
        return self._at

    def readinto(self, buffer: memoryview, /) -> int:  # type: ignore[override]  # Buffer of typeshed
        """Read up to the end of the part; fewer bytes than it has if the file was truncated."""
        left = min(len(buffer), self._size_bytes - self._at)
        if left <= 0:
            return 0
        count = os.preadv(self._fd, [memoryview(buffer)[:left]], self._offset + self._at)
        self._at += count
        return count

    def __len__(self) -> int:
        """Return the number of bytes of the part, for a Content-Length."""
        return self._size_bytes


class Readable(Protocol):
    """An open stream."""

    def read(self, size: int, /) -> bytes | None:
        """Return up to a number of bytes; nothing at the end."""


def pieces(content: Readable, limit_bytes: int = MAX_BLOB_BYTES) -> Iterator[bytes]:
    """Yield what an open stream has, from where it is, up to a number of bytes."""
    while limit_bytes and (piece := content.read(min(PIECE_BYTES, limit_bytes))):
        limit_bytes -= len(piece)
        yield piece


def digest_of_stream(content: Readable, check: Callable[[], None]) -> str:
    """Return the digest of what an open stream has, from where it is; `check` raises to stop."""
    hasher = hashlib.sha256()
    for piece in pieces(content):
        check()
        hasher.update(piece)
    return f"sha256:{hasher.hexdigest()}"


def verified(pieces: Iterable[bytes], descriptor: Descriptor, where: str) -> Iterator[bytes]:
    """Yield the pieces of a blob; `where` is what they are read from, for messages.

    Raises:
        ImageCorrupt: after the last piece, they have another size or digest than the descriptor.
    """
    hasher = hashlib.sha256()
    size_bytes = 0
    for piece in pieces:
        size_bytes += len(piece)
        if size_bytes > descriptor.size:
            break
        hasher.update(piece)
        yield piece
    if size_bytes != descriptor.size or f"sha256:{hasher.hexdigest()}" != descriptor.digest:
        message = f"{where}: the blob {descriptor.digest} was changed or is not complete"
        raise ImageCorrupt(message, remedy="push the image again, or use another one")


def outgoing(content: Readable, descriptor: Descriptor, where: str) -> Iterator[bytes]:
    """Yield a blob that is to be stored somewhere, compared with its descriptor.

    What is in memory is as it was when the caller computed the digest; a file may not be.
    """
    stream = pieces(content)
    return stream if isinstance(content, io.BytesIO) else verified(stream, descriptor, where)
