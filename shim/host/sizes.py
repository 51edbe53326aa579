"""Numbers of bytes as text: `200GiB` as a user writes it, `1.5 GiB` as it is shown."""

from __future__ import annotations

import re

from shim.errors import InvalidArgument

_UNITS = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")
_STEP = 1024
_TEXT = re.compile(r"([0-9]{1,18}(?:\.[0-9]{1,9})?)\s*(?:([KMGTP])(?:iB)?|B)?")


def size(count: float) -> str:
    """Format a number of bytes, in the largest unit in which it is at least 1."""
    for unit in _UNITS:
        if count < _STEP or unit == _UNITS[-1]:
            break
        count /= _STEP
    return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"


def parse_size(text: str) -> int:
    """Return the number of bytes that a text means; a unit is one of 1024 times the one before.

    Raises:
        InvalidArgument: it is not a size.
    """
    found = _TEXT.fullmatch(text.strip())
    if found is None:
        message = f"{text[:40]!r} is not a size"
        raise InvalidArgument(message, remedy="write a number and KiB, MiB, GiB or TiB: 200GiB")
    number, letter = found.groups()
    power = "KMGTP".index(letter) + 1 if letter else 0
    return int(float(number) * _STEP**power) if "." in number else int(number) * _STEP**power
