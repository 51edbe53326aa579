"""Copies an image out of a stage in memory: read once, hashed, written, and synced to the disk."""

from __future__ import annotations

import mmap
import os
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import closing
from itertools import cycle

import blake3

from shim import failpoints
from shim.host import allocation, dirty_pages
from shim.host.new_file import NewFile
from shim.host.oserror import typed
from shim.image.directory import ImageDir
from shim.image.hashing import OnBytes, fill, new_hasher
from shim.image.manifest import ImageFile

_PIECE_BYTES = 4 << 20
# So many pieces may be read and hashed before they are written: the disk accepts them unevenly.
_PIECES = 8
# The disk has pieces to write while the next ones are handed to it. With two writers a copy past
# the page cache took a third longer.
_WRITERS = 4
_FROM = os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW


def copy(
    stage: ImageDir, folder: ImageDir, on_bytes: OnBytes, *, sealed: bool, free: bool
) -> tuple[ImageFile, ...]:
    """Copy the files of a stage to a folder that has none of them; return what they are.

    With `free` the memory of each piece is freed once it is written. Without `sealed` nothing is
    hashed or synced. An image is written past the page cache if that cannot take all of it without
    a wait for the disk; otherwise it is in the page cache afterwards.

    Raises:
        ResourceExhausted: the disk is full.
        CryoError: another error of the disk.
    """
    try:
        direct = stage.size_bytes > dirty_pages.room_bytes()
        with ThreadPoolExecutor(_WRITERS, thread_name_prefix="write") as writers:
            return tuple(
                _File(stage, folder, name, sealed=sealed, free=free).copy(
                    writers, on_bytes, direct=direct
                )
                for name in stage.names()
            )
    except OSError as error:
        raise typed(error, f"write the image to {folder.path}") from error


class _File:
    """One file: threads write and free pieces while the caller reads and hashes the next."""

    def __init__(
        self, stage: ImageDir, folder: ImageDir, name: str, *, sealed: bool, free: bool
    ) -> None:
        self._stage = stage
        self._folder = folder
        self._name = name
        self._sealed = sealed
        self._free = free

    def copy(self, writers: ThreadPoolExecutor, on_bytes: OnBytes, *, direct: bool) -> ImageFile:
        """Copy it, and return its entry in the manifest."""
        with failpoints.around("image.copy"):
            source = os.open(self._name, _FROM, dir_fd=self._stage.fd)
            try:
                size_bytes = os.fstat(source).st_size
                direct = direct and size_bytes >= _PIECE_BYTES
                made = NewFile(self._name, self._folder.fd, size_bytes, direct=direct)
                with closing(made) as target:
                    buffers = _buffers(size_bytes)
                    return self._pieces(source, target, buffers, writers, on_bytes)
            finally:
                os.close(source)

    def _pieces(
        self,
        source: int,
        target: NewFile,
        buffers: list[memoryview],
        writers: ThreadPoolExecutor,
        on_bytes: OnBytes,
    ) -> ImageFile:
        hasher = new_hasher() if self._sealed else None
        writing: deque[Future[None]] = deque()
        at = 0
        try:
            for buffer in cycle(buffers):
                if len(writing) == len(buffers):
                    writing.popleft().result()  # that of this buffer
                if not (count := fill(source, at, buffer)):
                    break
                piece = buffer[:count]
                writing.append(writers.submit(self._write, source, target, piece, at))
                _hash(hasher, piece)
                on_bytes(count)
                at += count
            for written in writing:
                written.result()
        finally:
            # The files are in use until all has ended.
            wait(writing)
        if self._sealed:
            target.sync()
        digest = hasher.hexdigest() if hasher else ""
        return ImageFile(name=self._name, size_bytes=at, blake3=digest)

    def _write(self, source: int, target: NewFile, piece: memoryview, at: int) -> None:
        target.write(piece, at, start=self._sealed)
        if self._free:
            allocation.free(source, at, len(piece))


def _buffers(size_bytes: int) -> list[memoryview]:
    """Make the memory for the pieces of a file: of whole pages, as direct writes require it."""
    count = min(_PIECES, size_bytes // _PIECE_BYTES + 1)
    return [memoryview(mmap.mmap(-1, _PIECE_BYTES)) for _ in range(count)]


def _hash(hasher: blake3.blake3 | None, piece: memoryview) -> None:
    if hasher is not None:
        hasher.update(piece)
