"""Two pieces of work at the same time."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import TypeVar

_A = TypeVar("_A")
_B = TypeVar("_B")


async def both(one: Awaitable[_A], other: Awaitable[_B]) -> tuple[_A, _B]:
    """Return both results; both are over when this returns or raises, the error of `one` first."""
    first, second = await asyncio.gather(one, other, return_exceptions=True)
    if isinstance(first, BaseException):
        raise first
    if isinstance(second, BaseException):
        raise second
    return first, second
