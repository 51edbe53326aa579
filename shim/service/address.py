"""The sidecar's address: a unix socket, and beside it the socket of light clients.

Clients load this: it imports only what is small.
"""

from __future__ import annotations

import os

from shim.errors import InvalidArgument
from shim.host import unix_socket

_SCHEME = "unix:"
_LIGHT = ".ttrpc"


def parse(address: str) -> str:
    """Return the socket path of `unix:///path`, `unix:/path` or a bare absolute path.

    Raises:
        InvalidArgument: another scheme, a relative path, or one too long for a socket.
    """
    text = address.removeprefix(_SCHEME)
    path = "/" + "/".join(part for part in text.split("/") if part not in {"", "."})
    if not text.startswith("/") or path == "/":
        message = f"address {address!r} is not a unix socket"
        raise InvalidArgument(message, remedy="write it as unix:///run/cryo/cryo.sock")
    if not _fits(path):
        message = f"socket path {path} is longer than {unix_socket.PATH_MAX} bytes"
        raise InvalidArgument(message, remedy="choose a shorter path")
    return path


def target(address: str) -> str:
    """Return the address in gRPC's form."""
    return f"{_SCHEME}{parse(address)}"


def light_path(path: str) -> str | None:
    """Return the socket for calls without gRPC; None where its path is too long to be bound."""
    beside = f"{path}{_LIGHT}"
    return beside if _fits(beside) else None


def _fits(path: str) -> bool:
    return len(os.fsencode(path)) <= unix_socket.PATH_MAX
