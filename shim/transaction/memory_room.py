"""The host's memory, shared by restores that run at the same time."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

from shim.transaction import preflight


class MemoryRoom:
    """Lets restores begin while the memory suffices for all that are being loaded.

    Without it each would find the memory free that the others are about to take.
    """

    def __init__(self) -> None:
        self._promised_bytes = 0
        self._changed = asyncio.Condition()

    @contextlib.asynccontextmanager
    async def taken(self, needed_bytes: int) -> AsyncIterator[None]:
        """Wait for room, and have it within the block; one that is alone begins in any case.

        Its own check then refuses it, if the host has too little memory.
        """
        async with self._changed:
            await self._changed.wait_for(lambda: self._has(needed_bytes))
            self._promised_bytes += needed_bytes
        try:
            yield
        finally:
            self._promised_bytes -= needed_bytes
            async with self._changed:
                self._changed.notify_all()

    def _has(self, needed_bytes: int) -> bool:
        free_bytes = preflight.available_bytes(swap=True)
        return not self._promised_bytes or self._promised_bytes + needed_bytes <= free_bytes
