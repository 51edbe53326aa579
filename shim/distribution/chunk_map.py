"""Which parts of the files of an image have which content: one line of JSON for each chunk.

A pull writes it while it fetches, so that the next one can continue, and a push when it has read
the image. Beside an image it is a hint where others find chunks that they need: who uses it
compares the digest again.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated

import msgspec

from shim.distribution.artifact import FILES, Chunk
from shim.distribution.blob import is_digest
from shim.errors import CryoError
from shim.host import files
from shim.host.oserror import typed
from shim.image.directory import ImageDir
from shim.image.side_files import CHUNKS
from shim.model import Value

_log = logging.getLogger(__name__)
_MAX_BYTES = 8 << 20
# So that the sum of two is still an offset.
_MAX_OFFSET = 1 << 62


class Entry(Value, array_like=True):
    """A part of a file, and the SHA-256 digest of what it has."""

    file: Annotated[str, msgspec.Meta(max_length=255)]
    offset: Annotated[int, msgspec.Meta(ge=0, le=_MAX_OFFSET)]
    length: Annotated[int, msgspec.Meta(gt=0, le=_MAX_OFFSET)]
    digest: Annotated[str, msgspec.Meta(max_length=80)]


class ChunkMap:
    """The map in an open folder, as it was; more is added at its end."""

    def __init__(self, folder: int) -> None:
        """Open it for writing, and read it."""
        self.entries = tuple(read(folder))
        flags = (
            os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
        )
        try:
            self._fd = os.open(CHUNKS, flags, 0o600, dir_fd=folder)
        except OSError as error:
            raise typed(error, f"open {CHUNKS}") from error

    def add(self, entry: Entry) -> None:
        """Add a line, by one write: threads do not mix theirs."""
        try:
            os.write(self._fd, b"\n" + msgspec.json.encode(entry))
        except OSError as error:
            raise typed(error, f"write {CHUNKS}") from error

    def close(self) -> None:
        """Close it."""
        os.close(self._fd)


def read(folder: int) -> Iterator[Entry]:
    """Yield what can be read of the map in an open folder; a line that was cut off is left out."""
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
    try:
        with open(os.open(CHUNKS, flags, dir_fd=folder), "rb") as file:  # noqa: PTH123 - a descriptor
            data = file.read(_MAX_BYTES)
    except OSError:
        return
    decoder = msgspec.json.Decoder(Entry)
    for line in data.split(b"\n"):
        try:
            entry = decoder.decode(line)
        except (msgspec.MsgspecError, UnicodeDecodeError):
            continue
        if entry.file in FILES and is_digest(entry.digest):
            yield entry


def write(folder: ImageDir, chunks: Iterable[Chunk]) -> None:
    """Write the map of an image; one that cannot be written only costs later pulls time."""
    entries = [
        Entry(file=chunk.file, offset=chunk.offset, length=chunk.length, digest=chunk.digest)
        for chunk in chunks
        if chunk.digest is not None
    ]
    data = b"\n".join(map(msgspec.json.encode, entries))
    try:
        files.write_atomic(Path(f"/proc/self/fd/{folder.fd}") / CHUNKS, data)
    except CryoError as error:
        _log.info("the chunks of %s were not recorded: %s", folder.path, error)
