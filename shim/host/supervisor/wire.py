"""Messages between the supervisor and its clients: a JSON object per packet, with descriptors.

Request  {"n": 1, "op": "wait", ...}
Reply    {"n": 1, "ok": {...}}  or  {"n": 1, "error": "text", "errno": 2}
Before a spawn  {"begun": 1}
"""

from __future__ import annotations

import array
import contextlib
import json
import os
import socket
from typing import Any

VERSION = 1
# Below the default send buffer of a unix socket, so that neither side needs tuning.
LIMIT_BYTES = 160 * 1024
FDS_MAX = 32
_FD_BYTES = array.array("i").itemsize

Message = dict[str, Any]


class BadMessage(Exception):
    """The peer sent an invalid message; its connection is closed."""


def encode(message: Message) -> bytes:
    """Encode a message as a packet.

    Raises:
        ValueError: the packet would be larger than `LIMIT_BYTES`.
    """
    data = json.dumps(message, separators=(",", ":")).encode("ascii")
    if len(data) > LIMIT_BYTES:
        text = f"a message of {len(data)} bytes is too large (at most {LIMIT_BYTES})"
        raise ValueError(text)
    return data


def send(sock: socket.socket, data: bytes, fds: list[int]) -> None:
    """Send one packet with its descriptors.

    Raises:
        BlockingIOError: the send buffer is full until the peer reads.
    """
    socket.send_fds(sock, [data], fds, socket.MSG_NOSIGNAL)


def receive(sock: socket.socket) -> tuple[Message, list[int]] | None:
    """Receive one packet and its descriptors, which the caller then owns; None at the end.

    Raises:
        BlockingIOError: no packet has arrived yet.
        BadMessage: too large, too many descriptors, or no JSON object. All descriptors are closed.
    """
    room = socket.CMSG_SPACE(FDS_MAX * _FD_BYTES)
    data, control, flags, _ = sock.recvmsg(LIMIT_BYTES + 1, room, socket.MSG_CMSG_CLOEXEC)
    fds = _descriptors(control)
    if not data:
        close_all(fds)
        return None
    try:
        return _decode(data, flags), fds
    except BadMessage:
        close_all(fds)
        raise


def _descriptors(control: list[tuple[int, int, bytes]]) -> list[int]:
    fds = array.array("i")
    for level, kind, data in control:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            fds.frombytes(data[: len(data) - len(data) % _FD_BYTES])
    return list(fds)


def _decode(data: bytes, flags: int) -> Message:
    if len(data) > LIMIT_BYTES or flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC):
        text = "too large"
        raise BadMessage(text)
    try:
        message = json.loads(data)
    except (ValueError, RecursionError) as error:
        text = "not JSON"
        raise BadMessage(text) from error
    if not isinstance(message, dict):
        text = "not an object"
        raise BadMessage(text)
    return message


def close_all(fds: list[int]) -> None:
    """Close unused descriptors; a descriptor is closed even when close(2) fails."""
    for fd in fds:
        with contextlib.suppress(OSError):
            os.close(fd)
