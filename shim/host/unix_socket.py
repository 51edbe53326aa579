"""Unix sockets: who the peer is. Standard library only, for the supervisor. Source: unix(7)."""

from __future__ import annotations

import os
import socket
import struct
from typing import NamedTuple

_UCRED = struct.Struct("=iII")  # pid, uid, gid
# sun_path has 108 bytes, its final zero included.
PATH_MAX = 107


class Credentials(NamedTuple):
    """The process and the user that connected a socket."""

    pid: int
    uid: int


def peer_credentials(sock: socket.socket) -> Credentials:
    """Return who was at the other end when the connection was made."""
    data = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
    pid, uid, _ = _UCRED.unpack(data)
    return Credentials(pid, uid)


def peer_is_allowed(sock: socket.socket) -> bool:
    """Return whether the peer is root or our own user."""
    return peer_credentials(sock).uid in {0, os.geteuid()}
