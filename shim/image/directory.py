"""The open directory of an image; its files are opened relative to it, never through a link."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

from shim.errors import ImageCorrupt, NotFound, PermissionDenied
from shim.host import trusted
from shim.host.oserror import typed
from shim.image import hashing
from shim.image.hashing import OnBytes, ignore_bytes
from shim.image.side_files import is_side_file
from shim.model import Value

UNTRUSTED_REMEDY = (
    "copy it to a folder that only root can write to; "
    "'tasks restore' and 'checkpoints verify' accept it with --untrusted-folder"
)
REMEDY = "copy the image again from an intact copy, or use another one"
_DIR = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NOFOLLOW
# Refers to a file without opening it: opening a device or a fifo has side effects.
_LOOK = os.O_PATH | os.O_CLOEXEC | os.O_NOFOLLOW
_FILE = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY


class Identity(Value):
    """Identifies a version of a file: the kernel changes `ctime_ns` on every write."""

    device: int
    inode: int
    size_bytes: int
    ctime_ns: int


class ImageDir:
    """An open image directory; with `strict` a file that another user can write is an error."""

    def __init__(self, path: Path, fd: int, *, strict: bool = False) -> None:
        self.path = path
        self.fd = fd
        self._strict = strict

    @property
    def size_bytes(self) -> int:
        """Return the total size of its files; files may appear and disappear meanwhile."""
        with os.scandir(self.fd) as entries:
            return sum(_size(entry) for entry in entries if not is_side_file(entry.name))

    def names(self) -> list[str]:
        """List the names in it, without those of side files."""
        try:
            names = os.listdir(self.fd)  # noqa: PTH208 - a descriptor, not a path
        except OSError as error:
            raise typed(error, f"list {self.path}") from error
        return sorted(name for name in names if not is_side_file(name))

    @contextlib.contextmanager
    def opened(self, name: str) -> Iterator[int]:
        """Open a regular file for reading within the block.

        Raises:
            ImageCorrupt: it is missing, a link, or not a regular file.
            PermissionDenied: another user can write to it.
        """
        fd = self._open(name)
        try:
            yield fd
        finally:
            os.close(fd)

    def identity(self, name: str) -> Identity:
        """Return the identity of a regular file, without opening it.

        Raises:
            ImageCorrupt, PermissionDenied: as `opened`.
        """
        try:
            found = os.stat(name, dir_fd=self.fd, follow_symlinks=False)
        except FileNotFoundError:
            self.corrupt(f"{name} is missing")
        except OSError as error:
            raise typed(error, f"look at {self.path / name}") from error
        self._check(name, found)
        return _identity_of(found)

    def _open(self, name: str) -> int:
        """Open a file after checking that it is a regular one."""
        try:
            named = os.open(name, _LOOK, dir_fd=self.fd)
        except FileNotFoundError:
            self.corrupt(f"{name} is missing")
        except OSError as error:
            raise typed(error, f"open {self.path / name}") from error
        try:
            self._check(name, os.fstat(named))
            return os.open(f"/proc/self/fd/{named}", _FILE)
        except OSError as error:
            raise typed(error, f"open {self.path / name}") from error
        finally:
            os.close(named)

    def _check(self, name: str, found: os.stat_result) -> None:
        """Check that a file is a regular one that no other user can write to."""
        if not stat.S_ISREG(found.st_mode):
            self.corrupt(f"{name} is not a regular file")
        if self._strict:
            trusted.check_file(found, self.path / name)

    def hash(self, name: str, fd: int, on_bytes: OnBytes) -> str:
        """Return the BLAKE3 of an open file in hexadecimal, computed on all cores.

        Raises:
            ImageCorrupt: it changed meanwhile.
        """
        before = identity(fd)
        digest, size_bytes = hashing.digest(fd, before.size_bytes, on_bytes)
        if size_bytes != before.size_bytes or identity(fd) != before:
            self.corrupt(f"{name} changed while it was read")
        return digest

    def corrupt(self, why: str) -> NoReturn:
        """Raise the error for this image.

        Raises:
            ImageCorrupt: always.
        """
        message = f"image {self.path}: {why}"
        raise ImageCorrupt(message, remedy=REMEDY)


@contextlib.contextmanager
def open_image_dir(path: Path, *, strict: bool = False) -> Iterator[ImageDir]:
    """Open an image directory within the block, as `begin_image_dir` does."""
    folder = begin_image_dir(path, strict=strict)
    try:
        yield folder
    finally:
        os.close(folder.fd)


def begin_image_dir(path: Path, *, strict: bool = False) -> ImageDir:
    """Open an image directory; the caller closes its descriptor.

    With `strict` it must be where only root or our own user can replace it or add to it.

    Raises:
        NotFound: there is none, or it is a link or a file.
        PermissionDenied: another user can change it.
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
    if strict:
        os.close(fd)
        fd = _trusted(path)
    return ImageDir(path, fd, strict=strict)


def _trusted(path: Path) -> int:
    try:
        return trusted.open_folder(path, alone=True)
    except PermissionDenied as error:
        message = f"another user could change image {path}: {error.message}"
        raise PermissionDenied(message, remedy=UNTRUSTED_REMEDY) from error


def _size(entry: os.DirEntry[str]) -> int:
    try:
        return entry.stat(follow_symlinks=False).st_size
    except FileNotFoundError:
        return 0


def identity(fd: int) -> Identity:
    """Return the identity of an open file."""
    return _identity_of(os.fstat(fd))


def _identity_of(found: os.stat_result) -> Identity:
    return Identity(
        device=found.st_dev,
        inode=found.st_ino,
        size_bytes=found.st_size,
        ctime_ns=found.st_ctime_ns,
    )


def hash_file(path: Path) -> str:
    """Return the BLAKE3 of any readable file in hexadecimal."""
    try:
        with path.open("rb", buffering=0) as file:
            return hashing.digest(file.fileno(), os.fstat(file.fileno()).st_size, ignore_bytes)[0]
    except OSError as error:
        raise typed(error, f"read {path}") from error
