"""The socket that a server listens on, and who may speak to it."""

from __future__ import annotations

import os
import socket
from pathlib import Path

from shim.errors import AlreadyExists, InvalidArgument, Unavailable
from shim.host import unix_socket

_BACKLOG = 128
_ROOT = 0


def bind(path: Path) -> socket.socket:
    """Listen on a path, for its owner alone; removing the path is the caller's.

    Raises:
        AlreadyExists: something lies there.
        InvalidArgument: the path is too long for a socket.
        Unavailable: it cannot be bound.
    """
    if len(os.fsencode(path)) > unix_socket.PATH_MAX:
        message = f"socket path {path} is longer than {unix_socket.PATH_MAX} bytes"
        raise InvalidArgument(message, remedy="choose a shorter path")
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        # Linux gives the file the mode of the unbound socket: at no moment can others connect.
        os.fchmod(listener.fileno(), 0o600)
        _bind(listener, path)
        listener.listen(_BACKLOG)
    except BaseException:
        listener.close()
        raise
    return listener


def _bind(listener: socket.socket, path: Path) -> None:
    try:
        listener.bind(str(path))
    except OSError as error:
        if path.exists():
            message = f"{path} exists"
            raise AlreadyExists(message, remedy="remove it, unless somebody serves it") from error
        message = f"cannot listen on {path}: {error}"
        raise Unavailable(message, remedy="check the folder") from error


def is_ours(connected: socket.socket) -> bool:
    """Tell whether the peer is root, or runs as the user that we run as."""
    return unix_socket.peer_credentials(connected).uid in {_ROOT, os.geteuid()}
