"""Files that must survive a crash, and reads that must not be tricked: atomic, bounded, private."""

from __future__ import annotations

import contextlib
import os
import secrets
import stat
from pathlib import Path

from shim.errors import FailedPrecondition, InvalidArgument, PermissionDenied
from shim.host.oserror import typed

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


def private_dir(path: Path, mode: int = 0o700) -> Path:
    """Make the directory (and its parents), and insist that it is ours.

    Raises:
        PermissionDenied: it is a link, no directory, or belongs to another user.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o755)
        with contextlib.suppress(FileExistsError):
            path.mkdir(mode=mode)
        found = path.lstat()
    except OSError as error:
        raise typed(error, f"make {path}") from error
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid():
        message = f"{path} is not a directory of ours"
        raise PermissionDenied(message, remedy="remove it, or choose another place")
    if stat.S_IMODE(found.st_mode) != mode:
        path.chmod(mode)
    return path


def remove_tree(path: Path) -> None:
    """Remove a file, link or directory tree; follow no link, cross no mount, accept its absence.

    Raises:
        FailedPrecondition: something inside is a mount point; what is on it was not touched.
    """
    try:
        parent = os.open(path.parent, _DIR)
    except FileNotFoundError:
        return
    except OSError as error:
        raise typed(error, f"open {path.parent}") from error
    try:
        _remove(parent, path.name, path)
    except OSError as error:
        raise typed(error, f"remove {path}") from error
    finally:
        os.close(parent)


def _remove(parent: int, name: str, path: Path) -> None:
    with contextlib.suppress(FileNotFoundError):
        if not stat.S_ISDIR(os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode):
            os.unlink(name, dir_fd=parent)
            return
        fd = os.open(name, _DIR | os.O_NOFOLLOW, dir_fd=parent)
        try:
            _empty(parent, fd, path)
        finally:
            os.close(fd)
        os.rmdir(name, dir_fd=parent)


def _empty(parent: int, fd: int, path: Path) -> None:
    # A rootfs that is still mounted here may be the host's own `/`: same device, other mount id.
    if mount_id(fd) != mount_id(parent):
        message = f"cannot remove {path}: it is a mount point"
        raise FailedPrecondition(message, remedy=f"umount {path}")
    with os.scandir(fd) as entries:
        names = [entry.name for entry in entries]
    for name in names:
        _remove(fd, name, path / name)


def mount_id(fd: int) -> str:
    """Tell which mount a descriptor is on, as an opaque word. Source: proc_pid_fdinfo(5)."""
    for line in Path(f"/proc/self/fdinfo/{fd}").read_text("ascii").splitlines():
        if line.startswith("mnt_id:"):
            return line
    return ""


def free_bytes(path: Path) -> int:
    """Tell how many bytes an unprivileged writer could still put on the filesystem of `path`.

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
