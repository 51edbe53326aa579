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
    """The type of a frame; other numbers are for later versions of the protocol."""

    REQUEST = 1
    RESPONSE = 2
    DATA = 3


# The only flag that matters without streaming: the request continues in other frames.
REMOTE_OPEN = 2


class Header(NamedTuple):
    """The header of a frame; `size_bytes` is the size of the payload alone."""

    size_bytes: int
    stream: int
    kind: int
    flags: int = 0

    def pack(self) -> bytes:
        """Encode the header."""
        return _HEADER.pack(*self)


class Frame(NamedTuple):
    """A received frame; `payload` is None if it was too long and was discarded."""

    header: Header
    payload: bytes | None


def unpack(data: bytes) -> Header:
    """Decode a header; any ten bytes are valid."""
    return Header(*_HEADER.unpack(data))


def pack(stream: int, kind: Kind, payload: bytes) -> bytes:
    """Encode a whole frame."""
    return Header(len(payload), stream, kind).pack() + payload
