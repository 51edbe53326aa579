"""The connections of a process, read from outside: those that a save would cut.

Each of the sentry's sockets is duplicated (pidfd_getfd(2)), queried for its peer, and closed.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import socket
import time
from typing import NamedTuple

from shim.errors import DeadlineExceeded, NotFound
from shim.host.oserror import typed, typed_number

_PIDFD_GETFD = 438  # the same number on every architecture
# A hundred thousand descriptors take a second or less.
_LIMIT_S = 10.0
_CLOSED_MEANWHILE = frozenset({errno.EBADF, errno.ESRCH})
UNIX, TCP = "unix", "tcp"
_libc = ctypes.CDLL(None, use_errno=True)


class Connection(NamedTuple):
    """One connection: `kind` is `unix` or `tcp`, `peer` a socket's path or `address:port`."""

    kind: str
    peer: str


def connections(pid: int, *, limit_s: float = _LIMIT_S) -> list[Connection]:
    """List the connections of `pid`, without unnamed peers and listening sockets.

    Raises:
        NotFound: the process is gone.
        PermissionDenied: its descriptors cannot be read (needs root).
        DeadlineExceeded: it has too many descriptors to read in time.
    """
    deadline_s = time.monotonic() + limit_s
    try:
        pidfd = os.pidfd_open(pid)
    except OSError as error:
        raise typed(error, f"open process {pid}") from error
    try:
        found = (_peer(pidfd, number, pid) for number in _socket_fds(pid, deadline_s))
        return sorted({each for each in found if each is not None})
    finally:
        os.close(pidfd)


def _socket_fds(pid: int, deadline_s: float) -> list[int]:
    base = f"/proc/{pid}/fd"
    numbers: list[int] = []
    try:
        with os.scandir(base) as entries:
            for count, entry in enumerate(entries):
                if time.monotonic() > deadline_s:
                    message = f"process {pid} has more than {count} open files"
                    raise DeadlineExceeded(message, remedy="try again when the host is less busy")
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
        # Hundreds of links per call, before every save: a Path for each would double its time.
        return os.readlink(path).startswith("socket:")  # noqa: PTH115
    return False


def _peer(pidfd: int, number: int, pid: int) -> Connection | None:
    fd = _libc.syscall(_PIDFD_GETFD, pidfd, number, 0)
    if fd < 0:
        failed = ctypes.get_errno()
        if failed in _CLOSED_MEANWHILE:
            return None
        raise typed_number(failed, f"read the sockets of process {pid}")
    with socket.socket(fileno=fd) as borrowed:
        return _named_peer(borrowed)


def _named_peer(borrowed: socket.socket) -> Connection | None:
    try:
        peer = borrowed.getpeername()
    except OSError:
        return None  # not connected: listening, unbound, or closed by the peer
    if borrowed.family == socket.AF_UNIX:
        name = peer.decode("utf-8", "replace") if isinstance(peer, bytes) else str(peer)
        return Connection(UNIX, name.replace("\0", "@")) if name else None
    if borrowed.type == socket.SOCK_STREAM and borrowed.family in {socket.AF_INET, socket.AF_INET6}:
        return Connection(TCP, _address(peer))
    return None


def _address(peer: tuple[str, int]) -> str:
    host, port = peer[0], peer[1]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
