"""The device protocol's framing: a length, a JSON header with the payload's size, the payload."""

from __future__ import annotations

import json
import socket
import struct
from typing import Any

HEADER_MAX = 1 << 20
PAYLOAD_MAX = 1 << 24
_LENGTH = struct.Struct(">I")


class Malformed(Exception):
    """The peer sent an invalid frame."""


def _exactly(connection: socket.socket, size: int) -> bytearray:
    """Read `size` bytes.

    Raises:
        EOFError: the peer closed the connection.
    """
    data = bytearray(size)
    view = memoryview(data)
    while view:
        count = connection.recv_into(view)
        if not count:
            raise EOFError
        view = view[count:]
    return data


def send(
    connection: socket.socket, header: dict[str, Any], payload: bytes | memoryview = b""
) -> None:
    """Send one frame."""
    text = json.dumps({**header, "size": len(payload)}).encode()
    connection.sendall(_LENGTH.pack(len(text)) + text)
    if payload:
        connection.sendall(payload)


def receive(connection: socket.socket) -> tuple[dict[str, Any], bytearray]:
    """Receive one frame.

    Raises:
        EOFError: the peer closed the connection.
        Malformed: the frame is too long, or its header is no JSON object.
    """
    (length,) = _LENGTH.unpack(_exactly(connection, _LENGTH.size))
    if length > HEADER_MAX:
        raise Malformed
    header = json.loads(_exactly(connection, length))
    if not isinstance(header, dict):
        raise Malformed
    size = header.get("size", 0)
    if not isinstance(size, int) or not 0 <= size <= PAYLOAD_MAX:
        raise Malformed
    return header, _exactly(connection, size)
