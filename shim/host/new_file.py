"""A new file that is written in pieces, through the page cache or past it.

Source: open(2) about O_DIRECT, and ext4_dio_write_checks in fs/ext4/file.c: a write past the cache
is concurrent with others if the storage is reserved, and the file does not become larger.
"""

from __future__ import annotations

import errno
import os

from shim.host import allocation, writeback

# A multiple of what every disk requires of the length, the place and the memory of a direct write.
_BLOCK_BYTES = 4096
# The page cache takes a larger piece in huge pages. For these a virtual machine that reports its
# free pages has to get memory from the hypervisor: 7 s per GiB were measured instead of 1.7 s.
_CACHED_BYTES = 1 << 20
_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
_DIRECT = os.O_WRONLY | os.O_CLOEXEC | os.O_DIRECT
# What a filesystem answers that has no direct writes, or none of these: from open, or from a write.
_REFUSED = frozenset({errno.EINVAL, errno.EOPNOTSUPP})


class NewFile:
    """A file of a known size; several threads may write to it, until it is closed.

    With `direct` whole blocks are written past the page cache, as far as the filesystem takes that.
    """

    def __init__(self, name: str, folder: int, size_bytes: int, *, direct: bool) -> None:
        """Create it in an open folder.

        Raises:
            OSError: it exists, or the disk has too little space, for example.
        """
        self._fd = os.open(name, _CREATE, 0o600, dir_fd=folder)
        self._direct = -1
        self._refused = False
        if direct:
            try:
                self._prepare(size_bytes)
            except BaseException:
                self.close()
                raise

    @property
    def is_direct(self) -> bool:
        """Whether whole blocks are written past the page cache."""
        return self._direct >= 0 and not self._refused

    def write(self, piece: memoryview, at: int, *, start: bool) -> None:
        """Write a piece; with `start` what is in the page cache is on its way to the disk after it.

        Whole blocks of page-aligned memory, at a place that is a multiple of a block, can be
        written directly.

        Raises:
            OSError: the disk is full, for example.
        """
        done = self._write_blocks(piece, at) if self.is_direct else 0
        if done < len(piece):
            self._write_cached(piece[done:], at + done)
            if start:
                writeback.start(self._fd, at + done, len(piece) - done)

    def sync(self) -> None:
        """Wait until all of it is on the disk.

        Raises:
            OSError: it is not.
        """
        os.fsync(self._fd)

    def close(self) -> None:
        """Close it. Idempotent."""
        for fd in (self._direct, self._fd):
            if fd >= 0:
                os.close(fd)
        self._direct = self._fd = -1

    def _prepare(self, size_bytes: int) -> None:
        """Open the file a second time, for direct writes, and reserve its storage for them."""
        try:
            self._direct = os.open(f"/proc/self/fd/{self._fd}", _DIRECT)
        except OSError as error:
            if error.errno not in _REFUSED:
                raise
            return
        if size_bytes:
            allocation.reserve(self._fd, size_bytes)

    def _write_blocks(self, piece: memoryview, at: int) -> int:
        """Write the whole blocks of a piece, until they are refused; return how many bytes."""
        end = len(piece) - len(piece) % _BLOCK_BYTES
        done = 0
        try:
            while done < end:
                done += os.pwrite(self._direct, piece[done:end], at + done)
        except OSError as error:
            if error.errno not in _REFUSED:
                raise
            self._refused = True
        return done

    def _write_cached(self, piece: memoryview, at: int) -> None:
        done = 0
        while done < len(piece):
            done += os.pwrite(self._fd, piece[done : done + _CACHED_BYTES], at + done)
