"""One way to write JSON, so that equal values are equal bytes and have one digest."""

from __future__ import annotations

import json
import re
from typing import Any, NoReturn

import blake3

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
    try:
        value = json.loads(data.decode("utf-8"), parse_constant=_refuse_constant)
        if _SURROGATE.search(data):
            json.dumps(value, ensure_ascii=False).encode("utf-8")
    except RecursionError as error:
        message = "nested too deep"
        raise ValueError(message) from error
    return value


def digest(data: bytes) -> str:
    """Hash some bytes: BLAKE3, in hexadecimal."""
    return blake3.blake3(data).hexdigest()


def _refuse_constant(text: str) -> NoReturn:
    message = f"{text} is no JSON"
    raise ValueError(message)
