"""A value that is looked up when it is asked for, and not again for some time."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class Cached(Generic[T]):
    """Looks something up for all who ask at the same time, and keeps it for `age_s`."""

    def __init__(self, look_up: Callable[[], Awaitable[T]], age_s: float) -> None:
        """Take what looks it up."""
        self._look_up = look_up
        self._age_s = age_s
        self._one = asyncio.Lock()
        self._found: tuple[float, T] | None = None

    async def get(self) -> T:
        """Return the value.

        Raises:
            CryoError: it cannot be looked up; nothing is kept.
        """
        async with self._one:
            if self._found is None or time.monotonic() - self._found[0] >= self._age_s:
                self._found = None
                began = time.monotonic()
                found = await self._look_up()
                self._found = began, found
                return found
            return self._found[1]

    def forget(self) -> None:
        """Look it up again at the next call."""
        self._found = None
