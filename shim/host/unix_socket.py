"""Unix sockets: the peer's credentials, and whether a path is in use.

Standard library only, for the supervisor. Source: unix(7).
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from typing import NamedTuple

_UCRED = struct.Struct("=iII")  # pid, uid, gid
# sun_path has 108 bytes, including the final zero.
PATH_MAX = 107
_CONNECT_S = 0.5
# Nothing listens on the path, or it is no socket.
_UNUSED = frozenset({errno.ECONNREFUSED, errno.ENOENT, errno.ENOTDIR, errno.ENOTSOCK})


class Credentials(NamedTuple):
    """The process and the user at the other end of a socket."""

    pid: int
    uid: int


def peer_credentials(sock: socket.socket) -> Credentials:
    """Return the peer's credentials at the time of the connection."""
    data = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
    pid, uid, _ = _UCRED.unpack(data)
    return Credentials(pid, uid)


def peer_is_allowed(sock: socket.socket) -> bool:
    """Return whether the peer is root or this process's user."""
    return peer_credentials(sock).uid in {0, os.geteuid()}


def listens(path: str) -> bool:
    """Return whether a process listens on a path, also one that does not accept in time."""
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(_CONNECT_S)
        return probe.connect_ex(path) not in _UNUSED
