"""Copies an image out of a stage in memory: read once, hashed, written, and synced to the disk."""

from __future__ import annotations

import ctypes
import mmap
import os
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor, wait
from functools import partial

import blake3

from shim import failpoints
from shim.host import writeback
from shim.host.oserror import typed
from shim.image.directory import ImageDir
from shim.image.hashing import OnBytes, new_hasher
from shim.image.manifest import ImageFile

# The page cache takes a larger piece in huge pages. For these a virtual machine that reports its
# free pages has to get memory from the hypervisor: 7 s per GiB were measured instead of 1.7 s.
_PIECE_BYTES = 1 << 20
# So many pieces may be read and hashed before they are written: the disk accepts them unevenly.
_PIECES = 8
_WRITEBACK_BYTES = 32 << 20
_PUNCH = 3  # FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE
_FROM = os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW
_TO = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
_libc = ctypes.CDLL(None, use_errno=True)


def copy(
    stage: ImageDir, folder: ImageDir, on_bytes: OnBytes, *, sealed: bool, free: bool
) -> tuple[ImageFile, ...]:
    """Copy the files of a stage to a folder that has none of them; return what they are.

    With `free` the memory of each piece is freed once it is written. Without `sealed` nothing is
    hashed or synced.

    Raises:
        ResourceExhausted: the disk is full.
        CryoError: another error of the disk.
    """
    try:
        with ThreadPoolExecutor(1, thread_name_prefix="write") as writer:
            return tuple(
                _File(stage, folder, name, sealed=sealed, free=free).copy(writer, on_bytes)
                for name in stage.names()
            )
    except OSError as error:
        raise typed(error, f"write the image to {folder.path}") from error


class _File:
    """One file: a thread writes and frees pieces while the caller reads and hashes the next."""

    def __init__(
        self, stage: ImageDir, folder: ImageDir, name: str, *, sealed: bool, free: bool
    ) -> None:
        self._stage = stage
        self._folder = folder
        self._name = name
        self._sealed = sealed
        self._free = free
        self._unwritten = 0

    def copy(self, writer: ThreadPoolExecutor, on_bytes: OnBytes) -> ImageFile:
        """Copy it, and return its entry in the manifest."""
        with failpoints.around("image.copy"):
            source = os.open(self._name, _FROM, dir_fd=self._stage.fd)
            try:
                target = os.open(self._name, _TO, 0o600, dir_fd=self._folder.fd)
                try:
                    return self._pieces(source, target, writer, on_bytes)
                finally:
                    os.close(target)
            finally:
                os.close(source)

    def _pieces(
        self, source: int, target: int, writer: ThreadPoolExecutor, on_bytes: OnBytes
    ) -> ImageFile:
        hasher = new_hasher() if self._sealed else None
        buffers = min(_PIECES, os.fstat(source).st_size // _PIECE_BYTES + 1)
        free = deque(memoryview(mmap.mmap(-1, _PIECE_BYTES)) for _ in range(buffers))
        writing: deque[tuple[Future[None], memoryview]] = deque()
        at = 0
        try:
            while True:
                if not free:
                    first, buffer = writing.popleft()
                    first.result()
                    free.append(buffer)
                buffer = free.popleft()
                if not (count := os.preadv(source, [buffer], at)):
                    break
                piece = buffer[:count]
                work = partial(self._write, source, target, piece, at)
                writing.append((writer.submit(work), buffer))
                _hash(hasher, piece)
                on_bytes(count)
                at += count
            for written, _ in writing:
                written.result()
        finally:
            # The files are in use until all has ended.
            wait([written for written, _ in writing])
        if self._sealed:
            os.fsync(target)
        digest = hasher.hexdigest() if hasher else ""
        return ImageFile(name=self._name, size_bytes=at, blake3=digest)

    def _write(self, source: int, target: int, piece: memoryview, at: int) -> None:
        done = 0
        while done < len(piece):
            done += os.pwrite(target, piece[done:], at + done)
        self._unwritten += done
        if self._sealed and self._unwritten >= _WRITEBACK_BYTES:
            writeback.start(target, at + done - self._unwritten, self._unwritten)
            self._unwritten = 0
        if self._free:
            _punch(source, at, done)


def _hash(hasher: blake3.blake3 | None, piece: memoryview) -> None:
    if hasher is not None:
        hasher.update(piece)


def _punch(fd: int, at: int, length: int) -> None:
    """Free a part of a file in memory; where that fails it is freed with the file."""
    _libc.fallocate64(ctypes.c_int(fd), _PUNCH, ctypes.c_int64(at), ctypes.c_int64(length))
