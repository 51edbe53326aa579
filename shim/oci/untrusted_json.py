"""JSON from elsewhere: its size and its shape are bounded before it is decoded."""

from __future__ import annotations

import json
import re
from typing import Any, NoReturn

# An OCI spec is seven levels deep and has some hundreds of objects and lists.
_MAX_DEPTH = 48
_MAX_PARTS = 1 << 17
# Strings are matched whole, so that only brackets of the structure are found.
_TOKEN = re.compile(rb'"(?:[^"\\]++|\\.)*+"|([\[{])|([\]}])')
_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")


def decode(data: bytes) -> Any:
    """Parse untrusted JSON.

    Raises:
        ValueError: it is not JSON, not UTF-8, too deeply nested, or contains NaN, Infinity or an
            unpaired surrogate.
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
    """Check, before JSON is decoded, that its objects are neither too deep nor too many.

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


def _refuse_constant(text: str) -> NoReturn:
    message = f"{text} is not JSON"
    raise ValueError(message)
