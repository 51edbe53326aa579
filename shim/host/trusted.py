"""Path ownership checks: root or this user owns every parent, and no other user can write to one.

The same rule as StrictModes of sshd. A parent may have the sticky bit, as /tmp does: its entries
can be replaced only by their owners, so a link in it must belong to root or this user too.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Iterator
from pathlib import Path

from shim.errors import PermissionDenied
from shim.host.oserror import typed

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_LOOK = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
_MAX_LINKS = 40
_OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH
REMEDY = "choose a folder that only root can write to"


def check(path: Path) -> None:
    """Check a folder and all its parents; missing ones are accepted.

    Raises:
        PermissionDenied: another user could replace it.
    """
    try:
        os.close(_walk(path, missing_ok=True))
    except OSError as error:
        raise typed(error, f"open {path}") from error


def open_folder(path: Path, *, alone: bool = False) -> int:
    """Open a folder that no other user can replace; the caller closes the descriptor.

    With `alone` no other user may add entries to it either, even if it has the sticky bit.

    Raises:
        NotFound: it does not exist or is not a folder.
        PermissionDenied: another user could replace it.
    """
    try:
        found = _walk(path)
        try:
            if alone:
                _check_mode(os.fstat(found), path, sticky_ok=False)
            return os.open(".", _FOLDER, dir_fd=found)
        finally:
            os.close(found)
    except OSError as error:
        raise typed(error, f"open {path}") from error


@contextlib.contextmanager
def opened(path: Path, *, alone: bool = False) -> Iterator[int]:
    """Open a folder as `open_folder` does, for the duration of the block."""
    fd = open_folder(path, alone=alone)
    try:
        yield fd
    finally:
        os.close(fd)


def open_file(path: Path, flags: int, mode: int = 0o600) -> int:
    """Open a file in such a folder, without following a link; the caller closes the descriptor.

    Raises:
        PermissionDenied: another user owns it, or could have put it there.
        InvalidArgument: it is a link.
    """
    with opened(path.parent) as folder:
        try:
            _look(folder, path)
            fd = os.open(path.name, flags | os.O_NOFOLLOW | os.O_CLOEXEC, mode, dir_fd=folder)
        except OSError as error:
            raise typed(error, f"open {path}") from error
    try:
        check_file(os.fstat(fd), path)
    except BaseException:
        os.close(fd)
        raise
    return fd


def _look(folder: int, path: Path) -> None:
    """Check the file before opening it, for a clearer error than the kernel's."""
    try:
        named = os.open(path.name, _LOOK, dir_fd=folder)
    except FileNotFoundError:
        return
    try:
        found = os.fstat(named)
    finally:
        os.close(named)
    if stat.S_ISLNK(found.st_mode):
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
    check_file(found, path)


def check_file(found: os.stat_result, path: Path) -> None:
    """Check that root or this user owns a file, only they can write to it, and it has one link.

    Raises:
        PermissionDenied: otherwise.
    """
    _check_owner(found, path)
    _check_mode(found, path, sticky_ok=False)
    if stat.S_ISREG(found.st_mode) and found.st_nlink > 1:
        message = f"{path} has {found.st_nlink} hard links"
        raise PermissionDenied(message, remedy="replace it with a copy")


def _walk(path: Path, *, missing_ok: bool = False) -> int:
    """Walk from the root to a folder, checking each parent; return an O_PATH descriptor."""
    todo = list(reversed(path.absolute().parts[1:]))
    shown = Path("/")
    fd = _root()
    links = 0
    try:
        while todo:
            name = todo.pop()
            try:
                found = os.open(name, _LOOK, dir_fd=fd)
            except FileNotFoundError:
                if missing_ok:
                    return fd
                raise
            what = os.fstat(found)
            _check_owner_of(found, what, shown / name)
            if not stat.S_ISLNK(what.st_mode):
                os.close(fd)
                fd, shown = found, shown / name
                _check_step(what, shown)
                continue
            links += 1
            target = _target(found, links)
            if target.startswith("/"):
                os.close(fd)
                fd, shown = _root(), Path("/")
            todo.extend(word for word in reversed(target.split("/")) if word)
    except BaseException:
        os.close(fd)
        raise
    return fd


def _root() -> int:
    fd = os.open("/", _LOOK | os.O_DIRECTORY)
    _check_owner_of(fd, os.fstat(fd), Path("/"))
    return fd


def _check_owner_of(fd: int, found: os.stat_result, path: Path) -> None:
    try:
        _check_owner(found, path)
    except PermissionDenied:
        os.close(fd)
        raise


def _target(link: int, count: int) -> str:
    try:
        if count > _MAX_LINKS:
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
        return os.readlink("", dir_fd=link)
    finally:
        os.close(link)


def _check_step(found: os.stat_result, path: Path) -> None:
    if not stat.S_ISDIR(found.st_mode):
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
    _check_mode(found, path, sticky_ok=True)


def _check_owner(found: os.stat_result, path: Path) -> None:
    if found.st_uid not in {0, os.geteuid()}:
        message = f"{path} belongs to user {found.st_uid}, who can replace its contents"
        raise PermissionDenied(message, remedy=f"{REMEDY}, or chown it to root")


def _check_mode(found: os.stat_result, path: Path, *, sticky_ok: bool) -> None:
    mode = found.st_mode
    if mode & _OTHERS_WRITE and not (sticky_ok and mode & stat.S_ISVTX):
        message = f"others may write to {path} (mode {stat.S_IMODE(mode):04o})"
        raise PermissionDenied(message, remedy=f"{REMEDY}, or run chmod go-w {path}")
