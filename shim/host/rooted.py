"""Opening a path as a process with another root folder would; no link leads out of that root."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import stat
from collections.abc import Iterator

from shim.errors import InvalidArgument

_OPENAT2 = 437  # the same number on every architecture that gVisor runs on
_RESOLVE_NO_MAGICLINKS, _RESOLVE_IN_ROOT = 0x02, 0x10
_MAX_LINKS = 40  # as the kernel's
_RETRIES = 8
# No openat2: older than Linux 5.6, or hidden by a seccomp filter.
_ABSENT = frozenset({errno.ENOSYS, errno.EPERM})
_FOLDER = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC
_ANY = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC

_libc = ctypes.CDLL(None, use_errno=True)


class _OpenHow(ctypes.Structure):
    _fields_ = (
        ("flags", ctypes.c_uint64),
        ("mode", ctypes.c_uint64),
        ("resolve", ctypes.c_uint64),
    )


def open_in_root(root: int, path: str) -> int:
    """Open `path` with O_PATH, with links and `..` resolved as if the folder `root` were `/`.

    An O_PATH descriptor cannot be read or written, and does not open a device or fifo.

    Raises:
        InvalidArgument: the path has a NUL.
        OSError: as for open(2), such as FileNotFoundError.
    """
    if "\0" in path:
        message = f"path {path[:200]!r} contains a NUL"
        raise InvalidArgument(message)
    try:
        return _openat2(root, path)
    except OSError as error:
        if error.errno not in _ABSENT:
            raise
    return _Walk(root).open(path)


def _openat2(root: int, path: str) -> int:
    how = _OpenHow(os.O_PATH | os.O_CLOEXEC, 0, _RESOLVE_IN_ROOT | _RESOLVE_NO_MAGICLINKS)
    name, size = os.fsencode(path), ctypes.c_size_t(ctypes.sizeof(how))
    for _ in range(_RETRIES):
        fd = int(_libc.syscall(_OPENAT2, root, name, ctypes.byref(how), size))
        if fd >= 0:
            return fd
        # EAGAIN: the kernel could not verify a `..` because of a concurrent rename.
        if ctypes.get_errno() != errno.EAGAIN:
            break
    raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), path)


class _Walk:
    """Does the same with one openat(2) per component, for a kernel without openat2."""

    def __init__(self, root: int) -> None:
        self._root = root
        self._links = 0
        # The folders from the root to the current position; the last entry may be a file.
        self._at: list[int] = []

    def open(self, path: str) -> int:
        """Resolve the whole path and return a descriptor of its target."""
        try:
            self._follow(path)
            return os.dup(self._top)
        finally:
            self._leave()

    @property
    def _top(self) -> int:
        return self._at[-1] if self._at else self._root

    def _follow(self, path: str) -> None:
        if not path:
            raise OSError(errno.ENOENT, os.strerror(errno.ENOENT), path)
        if path.startswith("/"):
            self._leave()
        for name in path.lstrip("/").split("/"):
            self._step(name)

    def _step(self, name: str) -> None:
        if not stat.S_ISDIR(os.fstat(self._top).st_mode):
            raise OSError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), name)
        if name in {"", "."}:
            return
        if name == "..":
            if self._at:
                os.close(self._at.pop())
            return
        fd = os.open(name, _ANY, dir_fd=self._top)
        if not stat.S_ISLNK(os.fstat(fd).st_mode):
            self._at.append(fd)
            return
        try:
            target = os.readlink("", dir_fd=fd)
        finally:
            os.close(fd)
        self._links += 1
        if self._links > _MAX_LINKS:
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), name)
        self._follow(target)

    def _leave(self) -> None:
        for fd in self._at:
            os.close(fd)
        self._at.clear()


@contextlib.contextmanager
def root_folder(path: os.PathLike[str]) -> Iterator[int]:
    """Hold a folder open as a root for `open_in_root`."""
    fd = os.open(path, _FOLDER)
    try:
        yield fd
    finally:
        os.close(fd)
