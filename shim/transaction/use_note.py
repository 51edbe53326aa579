"""The record that an image is used, from which its eviction chooses."""

from __future__ import annotations

import logging
from pathlib import Path

from shim.config import Config
from shim.errors import CryoError
from shim.host.filecalls import file_call
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
