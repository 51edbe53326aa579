"""Saves a task under a name: under the lock of its fingerprint, in place of older images."""

from __future__ import annotations

import logging
import os
from collections.abc import Awaitable, Callable
from pathlib import Path

from shim.config import Config
from shim.errors import CryoError
from shim.host.filecalls import file_call
from shim.image.images import REMOVE_S
from shim.image.named import ImageRef, NamedImages
from shim.image.verify import read_manifest
from shim.image.verify_cache import VerifyCache
from shim.model import CheckpointOptions, CheckpointResult, Report, TaskRef, utcnow
from shim.task import fingerprint_file
from shim.task.container import Container
from shim.task.owner import Owner

_log = logging.getLogger(__name__)

Checkpoint = Callable[[TaskRef, CheckpointOptions, Report], Awaitable[CheckpointResult]]
"""Makes a checkpoint of a task, as a client's call does."""


class NamedSaves:
    """The saves of one owner under names."""

    def __init__(self, config: Config, owner: Owner, checkpoint: Checkpoint) -> None:
        self._config = config
        self._owner = owner
        self._checkpoint = checkpoint
        self._cache = VerifyCache(Path(config.paths.verified))

    async def save(
        self, task: Container, ref: ImageRef, report: Report, *, besides: str | None = None
    ) -> CheckpointResult | None:
        """Save a task under the lock of its fingerprint; None if that is left to another.

        With `besides` nothing is saved where there is an image that can be read, and that is
        another one than this.
        """
        images, mine = self._images(ref), await fingerprint_file.of(task)
        lock = await file_call(lambda: images.lock(mine.key), doing=f"lock the image {ref}")
        if lock is None:
            return None
        try:
            if besides is not None and await _is_there(images, mine.key, besides):
                return None
            path = await file_call(
                lambda: images.new_image(mine, utcnow()), doing=f"make {images.folder}"
            )
            options = CheckpointOptions(image_path=str(path), for_copies=True)
            made = await self._checkpoint(task.ref, options, report)
            left = await file_call(
                lambda: images.prune(path, self._cache),
                doing=f"tidy {images.folder}",
                deadline_s=REMOVE_S,
            )
        finally:
            os.close(lock)
        for line in left:
            _log.warning("an image of %s was not removed: %s", ref, line)
        return made

    async def remove(self, ref: ImageRef, path: Path) -> None:
        """Remove an image of a name; that it cannot be removed is logged."""
        images = self._images(ref)
        line = await file_call(lambda: images.remove(path, self._cache), doing=f"remove {path}")
        if line is not None:
            _log.warning("an image of %s was not removed: %s", ref, line)

    def _images(self, ref: ImageRef) -> NamedImages:
        return NamedImages(Path(self._config.paths.images), ref)


async def _is_there(images: NamedImages, key: str, besides: str) -> bool:
    """Whether there is an image of a fingerprint that can be read, other than `besides`."""

    def look() -> bool:
        path = images.find(key)
        if path is None or str(path) == besides:
            return False
        try:
            read_manifest(path, strict=True)
        except CryoError:
            return False
        return True

    return await file_call(look, doing=f"look for the image {images.ref}")
