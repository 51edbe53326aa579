"""Ends calls that wait without a deadline when the server stops."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import TypeVar

from shim.errors import Unavailable

_Result = TypeVar("_Result")


class WaitGate:
    """Runs the waits of a server that have no deadline."""

    def __init__(self) -> None:
        self._closed = asyncio.Event()

    def close(self) -> None:
        """End every current and future wait."""
        self._closed.set()

    async def wait(self, awaitable: Awaitable[_Result]) -> _Result:
        """Wait for `awaitable`, or until the server stops.

        Raises:
            Unavailable: the server stops first.
        """
        closed = asyncio.ensure_future(self._closed.wait())
        wanted = asyncio.ensure_future(awaitable)
        try:
            await asyncio.wait({wanted, closed}, return_when=asyncio.FIRST_COMPLETED)
            if wanted.done():
                return wanted.result()
        finally:
            closed.cancel()
            wanted.cancel()
        message = "the server is stopping"
        raise Unavailable(message, remedy="the task keeps running; try again in a moment")
