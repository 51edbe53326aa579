"""Chunks that other images of this host have, so that a pull does not fetch them."""

from __future__ import annotations

import errno
import logging
import os
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path

from shim.distribution import chunk_map
from shim.distribution.artifact import Chunk
from shim.distribution.blob import FileSlice, pieces
from shim.distribution.chunk_map import Entry
from shim.errors import CryoError
from shim.host.oserror import typed
from shim.image import walk
from shim.image.verify import HeldImage
from shim.model import Value

_log = logging.getLogger(__name__)
# From another filesystem, or one that cannot share blocks.
_UNSHARED = frozenset({errno.EXDEV, errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS, errno.EBADF})


class _Place(Value):
    image: Path
    entry: Entry


class LocalChunks:
    """Where the wanted chunks are, as the maps of the images say; used by several threads.

    An image from which something is copied is not removed until `close`.
    """

    def __init__(self, folder: Path | None, wanted: Iterable[Chunk]) -> None:
        """Look at the maps of the images below a folder; None for no images."""
        digests = {chunk.digest for chunk in wanted}
        self._opening = threading.Lock()
        self._held: dict[Path, HeldImage | None] = {}
        self._places: dict[str, _Place] = {}
        for image in walk.images(folder) if folder is not None else ():
            for entry in _entries(image):
                if entry.digest in digests:
                    place = _Place(image=image, entry=entry)
                    self._places.setdefault(entry.digest, place)

    def copy(self, chunk: Chunk, fd: int) -> bool:
        """Copy what should be a chunk to its place in an open file; whether anything was copied.

        The caller compares the digest.

        Raises:
            ResourceExhausted: the disk is full.
        """
        place = self._places.get(chunk.digest or "")
        if place is None or place.entry.length != chunk.length:
            return False
        held = self._hold(place.image)
        if held is None:
            return False
        try:
            with held.folder.opened(place.entry.file) as source:
                _copy(source, place.entry.offset, fd, chunk)
        except CryoError as error:  # it is fetched instead
            _log.warning("chunks of %s are not used: %s", place.image, error)
            return False
        except OSError as error:
            raise typed(error, f"copy a chunk of {place.image}") from error
        return True

    def close(self) -> None:
        """Let the other images be removed."""
        with self._opening:
            for held in self._held.values():
                if held is not None:
                    held.close()
            self._held.clear()

    def _hold(self, image: Path) -> HeldImage | None:
        """Return another image, open and kept; None if it cannot be used."""
        with self._opening:
            if image not in self._held:
                self._held[image] = _opened(image)
            return self._held[image]


def _entries(image: Path) -> Iterator[Entry]:
    try:
        fd = os.open(image, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:  # removed meanwhile
        return
    try:
        yield from chunk_map.read(fd)
    finally:
        os.close(fd)


def _opened(image: Path) -> HeldImage | None:
    held = HeldImage(image)
    try:
        _ = held.fd
    except CryoError as error:
        held.close()
        _log.warning("chunks of %s are not used: %s", image, error)
        return None
    return held


def _copy(source: int, offset: int, fd: int, chunk: Chunk) -> None:
    """Copy a part of a file; filesystems that can share its blocks do."""
    done = 0
    try:
        while done < chunk.length and (
            count := os.copy_file_range(
                source, fd, chunk.length - done, offset + done, chunk.offset + done
            )
        ):
            done += count
    except OSError as error:
        if error.errno not in _UNSHARED:
            raise
        for piece in pieces(FileSlice(source, offset + done, chunk.length - done)):
            done += os.pwrite(fd, piece, chunk.offset + done)
