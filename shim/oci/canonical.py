"""Canonical JSON: equal values are encoded as equal bytes, with the same digest."""

from __future__ import annotations

import json
from typing import Any

import blake3


def encode(value: Any) -> bytes:
    """Return the compact form: sorted keys, ASCII only.

    Raises:
        ValueError: the value contains an infinity or NaN.
    """
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return text.encode("ascii")


def encode_pretty(value: Any) -> bytes:
    """Return the form for files that people read: indented, with a final newline.

    Raises:
        ValueError: the value contains an infinity or NaN.
    """
    text = json.dumps(value, sort_keys=True, indent=1, separators=(",", ": "), allow_nan=False)
    return text.encode("ascii") + b"\n"


def digest(data: bytes) -> str:
    """Return the BLAKE3 hash of bytes, in hexadecimal."""
    return blake3.blake3(data).hexdigest()
