"""Where a pulled image of a warm start goes: among the images of its name and fingerprint."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from types import TracebackType
from typing import Self

from shim.distribution.transfer import Offer
from shim.errors import Busy, CryoError, FailedPrecondition, ImageCorrupt
from shim.image.named import ImageRef, NamedImages, decode_fingerprint
from shim.image.verify import read_manifest
from shim.image.verify_cache import VerifyCache
from shim.model import utcnow


class PulledName:
    """The images of a name while one is pulled into it; all methods may block."""

    def __init__(self, images: Path, ref: ImageRef, cache: VerifyCache) -> None:
        self._images = NamedImages(images, ref)
        self._cache = cache
        self._lock: int | None = None

    def __enter__(self) -> Self:
        """Return it."""
        return self

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _at: TracebackType | None,
    ) -> None:
        """Let others save images of the name again."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def path_for(self, offer: Offer) -> Path:
        """Return the path of the image, and keep others from saving one of its fingerprint.

        It is that of an equal image, if there is one.

        Raises:
            FailedPrecondition: the image was not saved for warm starts.
            ImageCorrupt: its fingerprint is damaged.
            Busy: an image of the fingerprint is being saved.
        """
        if offer.fingerprint is None:
            message = f"{offer.where} was not saved for warm starts: it has no fingerprint"
            raise FailedPrecondition(message, remedy="push an image that 'cryo warm save' has made")
        try:
            mine = decode_fingerprint(offer.fingerprint)
        except (ValueError, RecursionError) as error:
            message = f"{offer.where}: its fingerprint is damaged: {error}"
            raise ImageCorrupt(message, remedy="push it again, or use another one") from error
        self._lock = self._images.lock(mine.key)
        if self._lock is None:
            message = f"an image is being saved as {self._images.ref}"
            raise Busy(message, remedy="try again when it is saved")
        for path in self._images.of(mine.key):
            with contextlib.suppress(CryoError):  # a damaged one is replaced
                if read_manifest(path, strict=True).digest == offer.manifest.digest:
                    return path
        return self._images.new_image(mine, utcnow())

    def tidy(self, path: Path) -> list[str]:
        """Remove what the image at this path replaces; return what could not be removed."""
        return self._images.prune(path, self._cache)
