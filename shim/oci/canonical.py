"""One way to write JSON, so that equal values are equal bytes and have one digest."""

from __future__ import annotations

import json
import re
from typing import Any, NoReturn

import blake3

# An OCI spec is seven levels deep and has some hundreds of objects and lists.
_MAX_DEPTH = 48
_MAX_PARTS = 1 << 17
# Texts are passed over whole, so that what is found is a bracket of the structure.
_TOKEN = re.compile(rb'"(?:[^"\\]++|\\.)*+"|([\[{])|([\]}])')
_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")


def encode(value: Any) -> bytes:
    """Give the compact form: sorted keys, ASCII only.

    Raises:
        ValueError: the value holds an infinity or something that JSON has no word for.
    """
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return text.encode("ascii")


def encode_pretty(value: Any) -> bytes:
    """Give the form for files that people open: indented, one newline at the end.

    Raises:
        ValueError: the value holds an infinity or something that JSON has no word for.
    """
    text = json.dumps(value, sort_keys=True, indent=1, separators=(",", ": "), allow_nan=False)
    return text.encode("ascii") + b"\n"


def decode(data: bytes) -> Any:
    """Parse JSON from outside.

    Raises:
        ValueError: it is no JSON, no UTF-8, nested too deep, says NaN or Infinity, or has half of
            a surrogate pair, which is no text.
    """
    check_shape(data)
    try:
        value = json.loads(data.decode("utf-8"), parse_constant=_refuse_constant)
        if _SURROGATE.search(data):
            json.dumps(value, ensure_ascii=False).encode("utf-8")
    except RecursionError as error:
        message = "nested too deep"
        raise ValueError(message) from error
    return value


def check_shape(data: bytes) -> None:
    """Check, before JSON becomes objects, that these are neither deeply nested nor very many.

    Raises:
        ValueError: they are.
    """
    depth = parts = 0
    for token in _TOKEN.finditer(data):
        if token.lastindex is None:
            continue
        opens = token.lastindex == 1
        depth += 1 if opens else -1
        parts += opens
        if depth > _MAX_DEPTH:
            message = "nested too deep"
            raise ValueError(message)
        if parts > _MAX_PARTS:
            message = f"more than {_MAX_PARTS} objects and lists"
            raise ValueError(message)


def digest(data: bytes) -> str:
    """Hash some bytes: BLAKE3, in hexadecimal."""
    return blake3.blake3(data).hexdigest()


def _refuse_constant(text: str) -> NoReturn:
    message = f"{text} is no JSON"
    raise ValueError(message)
