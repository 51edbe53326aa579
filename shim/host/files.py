"""Files that must survive a crash, and reads that must not be tricked: atomic, bounded, private."""

from __future__ import annotations

import contextlib
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
    "free_bytes",
    "fsync_dir",
    "make_folders",
    "private_dir",
    "read_bounded",
    "remove_tree",
    "write_atomic",
)

# What the group of the sidecar's socket may do in the state folder: reach what lies in it by name.
GROUP_SEARCH = stat.S_IXGRP

_DIR = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_READ = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY


def fsync_dir(path: Path) -> None:
    """Make the names in a directory durable."""
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


def write_atomic(path: Path, data: bytes, mode: int = 0o600) -> None:
    """Put `data` at `path` so that a reader, or a crash, sees the old file or the new, whole."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        _write_synced(temporary, data, mode)
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


def read_bounded(path: Path, limit_bytes: int, *, nofollow: bool = True) -> bytes:
    """Read a regular file of at most `limit_bytes`.

    Raises:
        InvalidArgument: larger, no regular file, or a link while `nofollow`.
        NotFound: it is not there.
    """
    flags = _READ | (os.O_NOFOLLOW if nofollow else 0)
    try:
        with open(os.open(path, flags), "rb") as file:  # noqa: PTH123 - a descriptor, not a path
            return _read_regular(file.fileno(), path, limit_bytes)
    except OSError as error:
        raise typed(error, f"read {path}") from error


def _read_regular(fd: int, path: Path, limit_bytes: int) -> bytes:
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        message = f"cannot read {path}: not a regular file"
        raise InvalidArgument(message)
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
    """Make a folder and those on the way to it, each that is missing with this mode."""
    missing = [place for place in (path, *path.parents) if not os.path.lexists(place)]
    try:
        for place in reversed(missing):
            with contextlib.suppress(FileExistsError):  # another process was quicker
                place.mkdir(mode=mode)
                place.chmod(mode)  # the umask must not narrow what the caller asked for
    except OSError as error:
        raise typed(error, f"make {path}") from error


def private_dir(path: Path, mode: int = 0o700, *, allowed: int = 0) -> Path:
    """Make the directory (and its parents), and insist that it is ours and has this mode.

    Permissions in `allowed` may be there besides: they are left as they are.

    Raises:
        PermissionDenied: it is a link, no directory, or belongs to another user, or somebody else
            could put another one in its place.
    """
    make_folders(path.parent)
    trusted.check(path.parent)
    try:
        with contextlib.suppress(FileExistsError):
            path.mkdir(mode=mode)
        found = path.lstat()
    except OSError as error:
        raise typed(error, f"make {path}") from error
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid():
        message = f"{path} is not a directory of ours"
        raise PermissionDenied(message, remedy="remove it, or choose another place")
    if stat.S_IMODE(found.st_mode) & ~allowed != mode:
        path.chmod(mode)
    return path


def free_bytes(path: Path) -> int:
    """Return how many bytes an unprivileged writer could still put on the filesystem of `path`.

    The nearest folder that exists is asked, so a path that is yet to be made is fine.
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
