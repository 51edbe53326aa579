"""Crash-safe file writes, and reads of untrusted paths: atomic, bounded, private."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import stat
from pathlib import Path

from shim.errors import InvalidArgument, PermissionDenied
from shim.host import trusted
from shim.host.oserror import typed
from shim.host.removal import remove_tree

__all__ = (
    "GROUP_SEARCH",
    "check_regular",
    "free_bytes",
    "fsync_dir",
    "make_folders",
    "private_dir",
    "read_bounded",
    "remove_tree",
    "write_atomic",
)

# The permission of the sidecar socket's group on the state directory: open entries by name.
GROUP_SEARCH = stat.S_IXGRP

_DIR = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_READ = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY


def fsync_dir(path: Path) -> None:
    """Fsync a directory, so that its entries survive a crash."""
    try:
        fd = os.open(path, _DIR)
    except OSError as error:
        raise typed(error, f"open {path}") from error
    try:
        os.fsync(fd)
    except OSError as error:
        raise typed(error, f"sync {path}") from error
    finally:
        os.close(fd)


def write_atomic(path: Path, data: bytes, mode: int = 0o600, *, like: Path | None = None) -> None:
    """Write `data` to `path` so that readers, even after a crash, see the whole old or new file.

    It gets the owner, mode and extended attributes of the file `like`, if there is one.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        _write_synced(temporary, data, mode if like is None else 0o600)
        if like is not None:
            _copy_attributes(like, temporary)
        temporary.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise typed(error, f"write {path}") from error
    fsync_dir(path.parent)


def _write_synced(path: Path, data: bytes, mode: int) -> None:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
    with open(os.open(path, flags, mode), "wb") as file:  # noqa: PTH123 - a descriptor, not a path
        os.fchmod(file.fileno(), mode)  # the umask must not narrow what the caller asked for
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _copy_attributes(source: Path, target: Path) -> None:
    found = source.stat()
    os.chown(target, found.st_uid, found.st_gid)
    for name in _attributes(source):
        os.setxattr(target, name, os.getxattr(source, name))
    target.chmod(stat.S_IMODE(found.st_mode))


def _attributes(path: Path) -> list[str]:
    try:
        return os.listxattr(path)
    except OSError as error:
        if error.errno != errno.ENOTSUP:
            raise
        return []


def read_bounded(path: Path, limit_bytes: int, *, nofollow: bool = True) -> bytes:
    """Read a regular file of at most `limit_bytes`.

    Raises:
        InvalidArgument: larger, not a regular file, or a link while `nofollow`.
        NotFound: there is no such file.
    """
    flags = _READ | (os.O_NOFOLLOW if nofollow else 0)
    try:
        with open(os.open(path, flags), "rb") as file:  # noqa: PTH123 - a descriptor, not a path
            return _read_regular(file.fileno(), path, limit_bytes)
    except OSError as error:
        raise typed(error, f"read {path}") from error


def check_regular(fd: int, path: Path) -> None:
    """Check that an open file is a regular one.

    Raises:
        InvalidArgument: it is not.
    """
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        message = f"cannot read {path}: not a regular file"
        raise InvalidArgument(message)


def _read_regular(fd: int, path: Path, limit_bytes: int) -> bytes:
    check_regular(fd, path)
    chunks: list[bytes] = []
    left = limit_bytes + 1
    while left and (chunk := os.read(fd, min(left, 1 << 20))):
        chunks.append(chunk)
        left -= len(chunk)
    if not left:
        message = f"cannot read {path}: larger than {limit_bytes} bytes"
        raise InvalidArgument(message)
    return b"".join(chunks)


def make_folders(path: Path, mode: int = 0o755) -> None:
    """Make a folder and its missing parents, each with this mode."""
    missing = [place for place in (path, *path.parents) if not os.path.lexists(place)]
    try:
        for place in reversed(missing):
            with contextlib.suppress(FileExistsError):  # made by another process meanwhile
                place.mkdir(mode=mode)
                place.chmod(mode)  # the umask must not narrow what the caller asked for
    except OSError as error:
        raise typed(error, f"make {path}") from error


def private_dir(path: Path, mode: int = 0o700, *, allowed: int = 0) -> Path:
    """Make the directory and its parents; ensure that this user owns it and its mode is `mode`.

    Permissions in `allowed` are kept if present.

    Raises:
        PermissionDenied: it is a link, not a directory, belongs to another user, or could be
            replaced by another user.
    """
    make_folders(path.parent)
    trusted.check(path.parent)
    return _own_dir(path, mode, allowed=allowed)


def _own_dir(path: Path, mode: int, *, allowed: int = 0) -> Path:
    try:
        with contextlib.suppress(FileExistsError):
            path.mkdir(mode=mode)
        found = path.lstat()
    except OSError as error:
        raise typed(error, f"make {path}") from error
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid():
        message = f"{path} is not a directory of this user"
        raise PermissionDenied(message, remedy="remove it, or choose another path")
    if stat.S_IMODE(found.st_mode) & ~allowed != mode:
        path.chmod(mode)
    return path


def private_subdir(path: Path) -> Path:
    """Make a directory in one that `private_dir` has made, and so without a look at its parents.

    Raises:
        PermissionDenied: it is a link, not a directory, or belongs to another user.
    """
    return _own_dir(path, 0o700)


def free_bytes(path: Path) -> int:
    """Return the bytes available to unprivileged users on the filesystem of `path`.

    `path` need not exist: the nearest existing parent is measured.
    """
    for place in (path, *path.absolute().parents):
        try:
            found = os.statvfs(place)
        except FileNotFoundError:
            continue
        except OSError as error:
            raise typed(error, f"measure {place}") from error
        return found.f_bavail * found.f_frsize
    return 0
