"""The sidecar's address: a unix socket, its directory, and their permissions.

The kernel checks permissions at connect: the socket has mode 0600, or 0660 for root and the
configured group, and umask keeps it closed between bind and chmod. gRPC's Python server does not
expose the credentials of a peer, so these modes are the only check.
"""

from __future__ import annotations

import contextlib
import grp
import os
import socket
import stat
from collections.abc import Iterator
from pathlib import Path

from shim.errors import AlreadyExists, InvalidArgument, Unavailable
from shim.host import files, trusted, unix_socket
from shim.host.filelock import try_lock
from shim.service.address import parse


class Endpoint:
    """A socket path that this process holds from `lock` to `release`."""

    def __init__(self, address: str, group: str = "", own_folder: Path | None = None) -> None:
        """Take an address, the group that may connect, and a directory to make private."""
        self.path = Path(parse(address))
        self._gid = _group_id(group)
        self._own_folder = own_folder
        self._lock: int | None = None

    def lock(self) -> None:
        """Make the directory, lock out other sidecars and remove a stale socket.

        Raises:
            AlreadyExists: another sidecar serves the path, or it is not a socket.
            PermissionDenied: another user can replace files in the directory, or owns the lock.
        """
        self._make_folder()
        self._lock = self._take_lock()
        try:
            _remove_stale(self.path)
        except BaseException:
            self.release()
            raise

    def release(self) -> None:
        """Release the path; the listener removes the socket itself."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    @contextlib.contextmanager
    def binding(self, path: Path | None = None) -> Iterator[None]:
        """Keep the socket closed to others while it is bound, then open it to the group."""
        before = os.umask(0o177)
        try:
            yield
        finally:
            os.umask(before)
        if self._gid is not None:
            os.chown(path or self.path, -1, self._gid)
            (path or self.path).chmod(0o660)

    def listener(self, path: Path | None = None) -> socket.socket:
        """Listen on the path, or on another one that the lock of this one protects.

        Raises:
            Unavailable: it cannot be bound.
        """
        path = path or self.path
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            with self.binding(path):
                listener.bind(str(path))
            listener.listen()
        except OSError as error:
            listener.close()
            message = f"cannot listen on {path}: {error}"
            raise Unavailable(message, remedy="check its directory, or choose another") from error
        return listener

    def _make_folder(self) -> None:
        folder = self.path.parent
        made = not folder.exists()
        files.make_folders(folder.parent)
        files.make_folders(folder, 0o700)
        trusted.check(folder)
        if made or folder == self._own_folder:
            self._close_folder(folder)

    def _close_folder(self, folder: Path) -> None:
        if self._gid is None:
            folder.chmod(0o700)
            return
        os.chown(folder, -1, self._gid)
        folder.chmod(0o710)

    def _take_lock(self) -> int:
        path = Path(f"{self.path}.lock")
        lock = try_lock(trusted.open_file(path, os.O_RDWR | os.O_CREAT))
        if lock is None:
            raise _taken(self.path)
        return lock


def _group_id(group: str) -> int | None:
    if not group:
        return None
    try:
        return grp.getgrnam(group).gr_gid
    except KeyError as error:
        message = f"there is no group {group!r}"
        raise InvalidArgument(message, remedy="create it, or configure another group") from error


def _remove_stale(path: Path) -> None:
    try:
        found = path.lstat()
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(found.st_mode):
        message = f"{path} exists and is not a socket"
        raise AlreadyExists(message, remedy="remove it, or choose another address")
    if unix_socket.listens(str(path)):
        raise _taken(path)
    path.unlink(missing_ok=True)


def _taken(path: Path) -> AlreadyExists:
    message = f"another sidecar serves {path}"
    return AlreadyExists(message, remedy="stop it, or choose another address")
