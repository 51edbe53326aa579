"""Who a process is connected to, seen from outside: the connections that a save would cut.

The sentry's own sockets are borrowed one at a time (pidfd_getfd(2)), asked for their peer, closed.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import socket
from typing import NamedTuple

from shim.errors import NotFound, ResourceExhausted
from shim.host.oserror import typed, typed_number

_PIDFD_GETFD = 438  # the same number on every architecture
_FDS_MAX = 16384
_CLOSED_MEANWHILE = frozenset({errno.EBADF, errno.ESRCH})
_UNIX = "unix"
_TCP = "tcp"
_libc = ctypes.CDLL(None, use_errno=True)


class Connection(NamedTuple):
    """One connection: `kind` is `unix` or `tcp`, `peer` a socket's path or `address:port`."""

    kind: str
    peer: str


def connections(pid: int) -> list[Connection]:
    """List what `pid` is connected to; unnamed peers and listening sockets are left out.

    Raises:
        NotFound: the process is gone.
        PermissionDenied: it may not be looked into (needs root).
        ResourceExhausted: it has more descriptors than we look at.
    """
    try:
        pidfd = os.pidfd_open(pid)
    except OSError as error:
        raise typed(error, f"open process {pid}") from error
    try:
        found = (_peer(pidfd, number, pid) for number in _socket_fds(pid))
        return sorted({each for each in found if each is not None})
    finally:
        os.close(pidfd)


def _socket_fds(pid: int) -> list[int]:
    base = f"/proc/{pid}/fd"
    numbers: list[int] = []
    try:
        with os.scandir(base) as entries:
            for count, entry in enumerate(entries):
                if count >= _FDS_MAX:
                    message = f"process {pid} has more than {_FDS_MAX} open files"
                    raise ResourceExhausted(message)
                if _is_socket(entry.path):
                    numbers.append(int(entry.name))
    except FileNotFoundError as error:
        message = f"process {pid} is gone"
        raise NotFound(message) from error
    except OSError as error:
        raise typed(error, f"list the files of process {pid}") from error
    return numbers


def _is_socket(path: str) -> bool:
    with contextlib.suppress(FileNotFoundError):
        # Hundreds of links a look, on the way to every save: a Path each would double its time.
        return os.readlink(path).startswith("socket:")  # noqa: PTH115
    return False


def _peer(pidfd: int, number: int, pid: int) -> Connection | None:
    fd = _libc.syscall(_PIDFD_GETFD, pidfd, number, 0)
    if fd < 0:
        failed = ctypes.get_errno()
        if failed in _CLOSED_MEANWHILE:
            return None
        raise typed_number(failed, f"look into the sockets of process {pid}")
    with socket.socket(fileno=fd) as borrowed:
        return _named_peer(borrowed)


def _named_peer(borrowed: socket.socket) -> Connection | None:
    try:
        peer = borrowed.getpeername()
    except OSError:
        return None  # not connected: listening, unbound, or the other side left
    if borrowed.family == socket.AF_UNIX:
        name = peer.decode("utf-8", "replace") if isinstance(peer, bytes) else str(peer)
        return Connection(_UNIX, name.replace("\0", "@")) if name else None
    if borrowed.type == socket.SOCK_STREAM and borrowed.family in {socket.AF_INET, socket.AF_INET6}:
        return Connection(_TCP, _address(peer))
    return None


def _address(peer: tuple[str, int]) -> str:
    host, port = peer[0], peer[1]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
