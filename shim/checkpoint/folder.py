"""An image's folder, held open: files are opened below it, never through a link."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

from shim.checkpoint import hashing
from shim.checkpoint.hashing import Tick, no_tick
from shim.errors import ImageCorrupt, NotFound
from shim.host.oserror import typed
from shim.model import Value

REMEDY = "copy the image again from where it is whole, or use another one"
_DIR = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NOFOLLOW
# Non-blocking, so that a fifo in the place of a file is refused and not waited for.
_FILE = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY


class Identity(Value):
    """What tells a file that was not touched: the kernel changes `ctime_ns` on every write."""

    device: int
    inode: int
    size_bytes: int
    ctime_ns: int


class Folder:
    """An open image folder."""

    def __init__(self, path: Path, fd: int) -> None:
        self.path = path
        self.fd = fd

    def names(self) -> list[str]:
        """List everything that is there."""
        try:
            return sorted(os.listdir(self.fd))  # noqa: PTH208 - a descriptor, not a path
        except OSError as error:
            raise typed(error, f"list {self.path}") from error

    @contextlib.contextmanager
    def opened(self, name: str) -> Iterator[int]:
        """Open a regular file for reading, for as long as the block lasts.

        Raises:
            ImageCorrupt: it is missing, a link, or no regular file.
        """
        try:
            fd = os.open(name, _FILE, dir_fd=self.fd)
        except FileNotFoundError:
            self.refuse(f"{name} is missing")
        except OSError as error:
            if error.errno not in {errno.ELOOP, errno.ENXIO, errno.EISDIR}:
                raise typed(error, f"open {self.path / name}") from error
            self.refuse(f"{name} is no regular file")
        try:
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                self.refuse(f"{name} is no regular file")
            yield fd
        finally:
            os.close(fd)

    def hash(self, name: str, fd: int, tick: Tick) -> str:
        """Hash an open file from its beginning on all cores: BLAKE3, in hexadecimal.

        Raises:
            ImageCorrupt: it changed while it was read.
        """
        before = identity(fd)
        digest, size_bytes = hashing.digest(fd, before.size_bytes, tick)
        if size_bytes != before.size_bytes or identity(fd) != before:
            self.refuse(f"{name} changed while it was read")
        return digest

    def refuse(self, why: str) -> NoReturn:
        """Say what is wrong with this image.

        Raises:
            ImageCorrupt: always.
        """
        message = f"image {self.path}: {why}"
        raise ImageCorrupt(message, remedy=REMEDY)


@contextlib.contextmanager
def open_folder(path: Path) -> Iterator[Folder]:
    """Open an image folder for as long as the block lasts.

    Raises:
        NotFound: there is none, or a link or file in its place.
    """
    try:
        fd = os.open(path, _DIR)
    except OSError as error:
        if error.errno not in {errno.ENOENT, errno.ENOTDIR, errno.ELOOP}:
            raise typed(error, f"open image {path}") from error
        message = f"no image at {path}"
        raise NotFound(
            message, remedy="name the image's folder; `cryo checkpoints ls` lists them"
        ) from error
    try:
        yield Folder(path, fd)
    finally:
        os.close(fd)


def identity(fd: int) -> Identity:
    """Tell which file this is, in which version."""
    found = os.fstat(fd)
    return Identity(
        device=found.st_dev,
        inode=found.st_ino,
        size_bytes=found.st_size,
        ctime_ns=found.st_ctime_ns,
    )


def hash_file(path: Path) -> str:
    """Hash any readable file, such as a program: BLAKE3, in hexadecimal."""
    try:
        with path.open("rb", buffering=0) as file:
            return hashing.digest(file.fileno(), os.fstat(file.fileno()).st_size, no_tick)[0]
    except OSError as error:
        raise typed(error, f"read {path}") from error
