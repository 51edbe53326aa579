"""The folder of an OCI layout on disk: opened for each use, never through a link."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO

from shim.distribution import layout_index
from shim.errors import Busy, InvalidArgument, NotFound
from shim.host import files, newfile
from shim.host.filelock import try_lock
from shim.host.newfile import NewFile
from shim.host.oserror import typed

_BLOBS = ("blobs", "sha256")
_LOCK_S = 60.0
_LOCK_EVERY_S = 0.02
_DIR = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NOFOLLOW
_FILE = os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY


class LayoutFolder:
    """The folder; nothing of it is open between calls."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __str__(self) -> str:
        """Return what messages call it."""
        return f"the OCI layout {self._path}"

    @contextlib.contextmanager
    def root(self) -> Iterator[int]:
        """Open it within the block.

        Raises:
            NotFound: there is no layout.
        """
        fd = self._open_root()
        try:
            yield fd
        finally:
            os.close(fd)

    @contextlib.contextmanager
    def blobs(self) -> Iterator[int]:
        """Open the folder of its blobs within the block.

        Raises:
            NotFound: there is no layout.
        """
        with self.root() as root:
            fd = self._descend(root)
        try:
            yield fd
        finally:
            os.close(fd)

    def make(self) -> None:
        """Make what is missing of it.

        Raises:
            InvalidArgument: the folder has something else.
        """
        files.make_folders(self._path, 0o700)
        try:
            with _opened(self._path) as root:
                self._make_marker(root)
                self._make_blobs(root)
            with self.blobs() as blobs:
                newfile.remove_old(blobs, time.time())
        except OSError as error:
            raise typed(error, f"make {self}") from error

    @contextlib.contextmanager
    def locked(self, root: int) -> Iterator[None]:
        """Let no other process change its index within the block.

        Raises:
            Busy: another process has held the lock for too long.
        """
        end_s = time.monotonic() + _LOCK_S
        while (lock := self._try_lock(root)) is None:
            if time.monotonic() > end_s:
                message = f"{self} is locked by another process"
                raise Busy(message, remedy="try again when that has ended")
            time.sleep(_LOCK_EVERY_S)
        try:
            yield
        finally:
            os.close(lock)

    def open_file(self, folder: int, name: str) -> IO[bytes]:
        """Open a regular file for reading, without a buffer.

        Raises:
            NotFound: there is none.
        """
        try:
            fd = os.open(name, _FILE | os.O_RDONLY, dir_fd=folder)
        except OSError as error:
            raise typed(error, f"open {name} of {self}") from error
        try:
            files.check_regular(fd, self._path / name)
        except BaseException:
            os.close(fd)
            raise
        return open(fd, "rb", buffering=0)  # noqa: PTH123 - a descriptor, not a path

    def put_file(
        self, folder: int, name: str, content: Iterable[bytes], *, replace: bool = True
    ) -> None:
        """Write a file; its content is durable before it has its name.

        Without `replace` a file that has the name stays.
        """
        try:
            new = NewFile(folder)
            try:
                for piece in content:
                    new.write(piece)
                new.commit(name, replace=replace)
            finally:
                new.close()
        except FileExistsError:
            return
        except OSError as error:
            raise typed(error, f"write to {self}") from error

    def sync(self, folder: int) -> None:
        """Make the names in an open folder durable."""
        try:
            os.fsync(folder)
        except OSError as error:
            raise typed(error, f"write to {self}") from error

    def _open_root(self) -> int:
        try:
            root = os.open(self._path, _DIR)
            try:
                os.stat(layout_index.MARKER_NAME, dir_fd=root, follow_symlinks=False)
            except BaseException:
                os.close(root)
                raise
        except FileNotFoundError as error:
            message = f"no OCI layout at {self._path}"
            raise NotFound(message, remedy="name the folder that was pushed to") from error
        except OSError as error:
            raise typed(error, f"open {self}") from error
        return root

    def _descend(self, root: int) -> int:
        fd = os.dup(root)
        for name in _BLOBS:
            above = fd
            try:
                fd = os.open(name, _DIR, dir_fd=above)
            except OSError as error:
                raise typed(error, f"open {name} of {self}") from error
            finally:
                os.close(above)
        return fd

    def _make_marker(self, root: int) -> None:
        names = set(os.listdir(root))
        if layout_index.MARKER_NAME in names:
            return
        # Another process may be making the same one, with a temporary name.
        if any(not name.startswith(".cryo-") for name in names):
            message = f"{self._path} is not empty, and not an OCI layout"
            raise InvalidArgument(message, remedy="name another folder")
        # Others may have locked the one that another process has made meanwhile.
        self.put_file(root, layout_index.MARKER_NAME, [layout_index.MARKER], replace=False)

    def _make_blobs(self, root: int) -> None:
        for depth in range(len(_BLOBS)):
            with contextlib.suppress(FileExistsError):
                os.mkdir("/".join(_BLOBS[: depth + 1]), 0o700, dir_fd=root)
        os.fsync(root)

    def _try_lock(self, root: int) -> int | None:
        try:
            return try_lock(os.open(layout_index.MARKER_NAME, _FILE | os.O_RDWR, dir_fd=root))
        except OSError as error:
            raise typed(error, f"lock {self}") from error


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[int]:
    fd = os.open(path, _DIR)
    try:
        yield fd
    finally:
        os.close(fd)
