"""A parser to fuzz."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from shim.errors import CryoError


@dataclass(frozen=True)
class Parser:
    """A parser of external input, with valid inputs, and the errors that it may raise."""

    name: str
    seeds: Sequence[bytes]
    read: Callable[[bytes], object]
    json: bool = False
    allowed: tuple[type[BaseException], ...] = (CryoError,)


def as_text(read: Callable[[str], object]) -> Callable[[bytes], object]:
    """Return the parser of bytes for one of texts."""
    return lambda data: read(data.decode("utf-8", "replace"))
