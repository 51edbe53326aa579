"""A cell that is set once and awaited by many."""

from __future__ import annotations

import asyncio
from typing import Generic, TypeVar

T = TypeVar("T")


class SetOnce(Generic[T]):
    """`get` works alike before and after the value is set."""

    def __init__(self) -> None:
        self._set = asyncio.Event()
        self.value: T | None = None

    def put(self, value: T) -> None:
        """Set the value; only the first one counts."""
        if not self._set.is_set():
            self.value = value
            self._set.set()

    async def get(self) -> T:
        """Wait for the value."""
        await self._set.wait()
        assert self.value is not None  # noqa: S101 - put() came before set()
        return self.value
