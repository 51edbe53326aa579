"""The frames of ttrpc: a header of ten bytes, big-endian, and a payload."""

from __future__ import annotations

import enum
import struct
from typing import NamedTuple

PAYLOAD_MAX = 4 << 20
STREAM_MAX = 0xFFFFFFFF
HEADER_SIZE = 10

_HEADER = struct.Struct(">IIBB")


class Kind(enum.IntEnum):
    """What a frame is; numbers beyond these are for later versions of the protocol."""

    REQUEST = 1
    RESPONSE = 2
    DATA = 3


# The only flag that matters where nothing streams: more of the request is to come.
REMOTE_OPEN = 2


class Header(NamedTuple):
    """What stands before each payload; `size_bytes` counts the payload alone."""

    size_bytes: int
    stream: int
    kind: int
    flags: int = 0

    def pack(self) -> bytes:
        """Write the header."""
        return _HEADER.pack(*self)


class Frame(NamedTuple):
    """One frame as it came; `payload` is None when it was too long and has been thrown away."""

    header: Header
    payload: bytes | None


def unpack(data: bytes) -> Header:
    """Read a header from its ten bytes: every value of them is one."""
    return Header(*_HEADER.unpack(data))


def pack(stream: int, kind: Kind, payload: bytes) -> bytes:
    """Write a whole frame."""
    return Header(len(payload), stream, kind).pack() + payload
