"""Ends the calls that would wait without end, once the server stops."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import TypeVar

from shim.errors import Unavailable

_Result = TypeVar("_Result")


class Drain:
    """What every endless wait of a server goes through."""

    def __init__(self) -> None:
        self._closed = asyncio.Event()

    def close(self) -> None:
        """End every wait, now and later."""
        self._closed.set()

    async def wait(self, awaitable: Awaitable[_Result]) -> _Result:
        """Wait for `awaitable`, or for the end of the server.

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
        raise Unavailable(message, remedy="the task runs on: ask again in a moment")
