"""Parses what containerd writes to the stdin of `start`: the container's runtime options.

Up to 2.2 that is an Any with the options, or nothing; from 2.3 on it is a BootstrapParams. It is
parsed by hand, because loading protobuf takes longer than the rest of `start`.
"""

from __future__ import annotations

TYPE = b"runtimeoptions.v1.Options"
# Fields of google.protobuf.Any, of containerd's BootstrapParams and its extensions, and of its
# runtime options (api/runtime/bootstrap/v1/bootstrap.proto, api/types/runtimeoptions/v1/api.proto).
_ANY_TYPE, _ANY_VALUE = 1, 2
_INSTANCE_ID = 1
_EXTENSIONS = 8
_EXTENSION_VALUE = 1
_CONFIG_PATH, _CONFIG_BODY = 2, 3
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_KIND_BITS = 3
_MOST_SHIFT = 63


def is_bootstrap_params(stdin_data: bytes, container: str) -> bool:
    """Return whether this is a BootstrapParams: its first string is then the container's id."""
    return _first(fields(stdin_data), _INSTANCE_ID) == container.encode()


def config_of(stdin_data: bytes, container: str) -> str | bytes | None:
    """Return the path of the config file that the options name, or the text that they contain."""
    for packed in _packed(stdin_data, container):
        parts = fields(packed)
        if _first(parts, _ANY_TYPE).endswith(TYPE):
            options = fields(_first(parts, _ANY_VALUE))
            path = _first(options, _CONFIG_PATH).decode("utf-8", "surrogateescape")
            return path or _first(options, _CONFIG_BODY) or None
    return None


def _packed(stdin_data: bytes, container: str) -> list[bytes]:
    """List the Any messages: up to containerd 2.2 the input, later those of the extensions."""
    parts = fields(stdin_data)
    if _first(parts, _INSTANCE_ID) != container.encode():
        return [stdin_data]
    found = [data for number, data in parts if number == _EXTENSIONS]
    return [_first(fields(data), _EXTENSION_VALUE) for data in found]


def _first(parts: list[tuple[int, bytes]], number: int) -> bytes:
    return next((data for each, data in parts if each == number), b"")


def fields(data: bytes) -> list[tuple[int, bytes]]:
    """Return the length-delimited fields of a message, with numbers; none if it is malformed."""
    found: list[tuple[int, bytes]] = []
    at = 0
    try:
        while at < len(data):
            key, at = _varint(data, at)
            end = _end(data, at, key & 0x7)
            if end > len(data):
                return []
            if key & 0x7 == _BYTES:
                _, at = _varint(data, at)
                found.append((key >> _KIND_BITS, data[at:end]))
            at = end
    except (IndexError, KeyError):
        return []
    return found


def _end(data: bytes, at: int, kind: int) -> int:
    """Return the end of a field whose value begins at `at`."""
    if kind == _VARINT:
        return _varint(data, at)[1]
    if kind == _BYTES:
        size, at = _varint(data, at)
        return at + size
    return at + {_FIXED64: 8, _FIXED32: 4}[kind]


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:  # noqa: PLR2004 - the continuation bit
            return value, at
        shift += 7
        if shift > _MOST_SHIFT:
            raise IndexError
