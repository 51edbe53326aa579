"""The verification of the pages of an image beside its load, and what waits for it."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from shim.host.shielded import ended, succeeded
from shim.image.verify import HeldImage
from shim.model import Report
from shim.transaction.worker import in_thread

T = TypeVar("T")


class PagesCheck:
    """Verifies the pages that the verification of an image has left, while they are loaded.

    Several restores may load the image meanwhile. The one who starts it stops it.
    """

    def __init__(self) -> None:
        self._reading: asyncio.Future[None] | None = None

    @property
    def is_needed(self) -> bool:
        """Whether pages are still to be verified, or were found damaged."""
        return self._reading is not None and not succeeded(self._reading)

    def start(self, held: HeldImage, report: Report) -> None:
        """Start to read them, unless none were left."""
        if held.has_pages_left:
            self._reading = asyncio.ensure_future(in_thread(held.verify_pages, report))

    async def beside(self, load: Coroutine[Any, Any, T]) -> T:
        """Load the pages meanwhile; a load of damaged pages is cancelled.

        If the load fails, damage of the pages is the better explanation, and is awaited.

        Raises:
            ImageCorrupt: the pages are damaged; the load has ended.
            CryoError: the load failed.
        """
        if self._reading is None:
            return await load
        loading = asyncio.ensure_future(load)
        try:
            first: set[asyncio.Future[Any]] = {loading, self._reading}
            await asyncio.wait(first, return_when=asyncio.FIRST_COMPLETED)
            if self._reading.done():
                await self.passed()
            await asyncio.wait({loading})
        finally:
            if not loading.done():
                loading.cancel()
                await ended(loading)
        if not succeeded(loading):
            await self.passed()
        return loading.result()

    async def passed(self) -> None:
        """Wait until the pages are verified.

        Raises:
            ImageCorrupt: they are damaged.
        """
        if self._reading is not None:
            await asyncio.shield(self._reading)

    async def stop(self) -> None:
        """Stop the reading, and wait until no file is in use. Idempotent."""
        if self._reading is not None:
            self._reading.cancel()
            await ended(self._reading)
            if not self._reading.cancelled():
                self._reading.exception()  # retrieved, so that it is not reported as lost
