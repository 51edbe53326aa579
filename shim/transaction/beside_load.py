"""What a restore does beside runsc: while it loads the image, and while its end is recorded."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from shim.config import Config
from shim.host.filecalls import file_call
from shim.host.shielded import ended
from shim.image.verify import HeldImage
from shim.transaction.use_note import note_use


class Load(NamedTuple):
    """What a load calls on its way: once runsc runs, and once it has exited without an error."""

    begun: Callable[[], None]
    ended: Callable[[], None]


class BesideLoad:
    """Records that an image is used, and checks that it has not changed while it was loaded."""

    def __init__(self) -> None:
        self._noting: asyncio.Future[None] | None = None
        self._checking: asyncio.Future[None] | None = None

    def note_use(self, image: Path, config: Config) -> None:
        """Begin to record that an image is used, once."""
        if self._noting is None:
            self._noting = asyncio.ensure_future(note_use(image, config))

    def check(self, held: HeldImage) -> None:
        """Begin to look at its files, all of which were read."""
        look = file_call(held.check_unchanged, doing=f"look at {held.image}")
        self._checking = asyncio.ensure_future(look)

    async def passed(self) -> None:
        """Wait until the use is recorded, and the files are found unchanged.

        Raises:
            ImageCorrupt: one has changed.
            DeadlineExceeded: their filesystem does not answer.
        """
        for work in self._begun:
            await asyncio.shield(work)

    async def stop(self) -> None:
        """End both, whatever their result is. Idempotent."""
        if self._checking is not None:
            self._checking.cancel()
        for work in self._begun:
            await ended(work)
            if not work.cancelled():
                work.exception()  # retrieved, so that it is not reported as lost

    @property
    def _begun(self) -> list[asyncio.Future[None]]:
        return [work for work in (self._noting, self._checking) if work is not None]
