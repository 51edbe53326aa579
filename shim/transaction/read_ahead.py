"""Reads the pages of an image into the page cache while runsc makes the sandbox."""

from __future__ import annotations

import asyncio
from functools import partial

from shim.host import page_cache
from shim.host.filecalls import file_call
from shim.host.shielded import ended
from shim.image.manifest import PAGES
from shim.image.verify import HeldImage
from shim.transaction.worker import Stop


class ReadAhead:
    """Reads ahead in threads, until it is stopped."""

    def __init__(self) -> None:
        self._stop = Stop()
        self._reading: list[asyncio.Future[None]] = []

    def start(self, held: HeldImage) -> None:
        """Start to read the pages: each thread a part of them."""
        for part in range(page_cache.READERS):
            work = partial(self._read, held, part)
            reading = file_call(work, doing="read ahead", deadline_s=None)
            self._reading.append(asyncio.ensure_future(reading))

    def _read(self, held: HeldImage, part: int) -> None:
        with held.folder.opened(PAGES) as fd:
            page_cache.read_ahead(fd, part, lambda: self._stop.is_set)

    async def stop(self) -> None:
        """Stop, and wait until no file is in use. Idempotent; a failure only costs time."""
        self._stop.set()
        for reading in self._reading:
            await ended(reading)
            reading.exception()
