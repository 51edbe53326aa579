"""The record that an image is used, from which its eviction chooses, beside the image's load."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

from shim.config import Config
from shim.errors import CryoError
from shim.host.filecalls import file_call
from shim.host.shielded import shielded
from shim.image import labels
from shim.model import utcnow

# A record that is late must not hold the restore up.
_NOTE_S = 5.0
_log = logging.getLogger(__name__)


async def note_use(image: Path, config: Config) -> None:
    """Record that an image of the store is used; that it cannot be recorded is only logged."""
    if not image.is_relative_to(config.paths.images):
        return
    try:
        await file_call(
            lambda: labels.note_use(image, utcnow()),
            doing=f"record the use of {image}",
            deadline_s=_NOTE_S,
        )
    except CryoError as error:
        _log.warning("the use of image %s was not recorded: %s", image, error)


class UseNote:
    """Records once that an image is used, in the background. The one who begins it ends it."""

    def __init__(self) -> None:
        self._noting: asyncio.Future[None] | None = None

    def begin(self, image: Path, config: Config) -> None:
        """Begin to record it. Idempotent."""
        if self._noting is None:
            self._noting = asyncio.ensure_future(note_use(image, config))

    async def ended(self) -> None:
        """Wait until it is recorded, or the deadline of that has passed. Idempotent."""
        if self._noting is not None:
            await shielded(self._noting, deadline_s=None)
