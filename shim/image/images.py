"""The images of a host, for an event loop: a filesystem that hangs blocks only its own caller."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from shim.config import Config
from shim.errors import CryoError
from shim.host import files
from shim.host.filecalls import file_call
from shim.image import store
from shim.image.manifest import Manifest
from shim.image.verify import read_manifest
from shim.image.verify_cache import VerifyCache
from shim.model import ImageView

# A list reads every manifest, and has to time out before a client with the default timeout does. A
# removal frees the blocks of possibly hundreds of GiB.
LIST_S = 50.0
REMOVE_S = 600.0


class Images:
    """The images in the configured folder, and images elsewhere by their paths."""

    def __init__(self, config: Config) -> None:
        self._folder = Path(config.paths.images)
        self._verified = Path(config.paths.verified)

    async def find(self, requested: str) -> Path:
        """Return the folder of an image.

        Raises:
            InvalidArgument, NotFound: as `store.resolve_existing`.
            DeadlineExceeded: its filesystem does not answer.
        """
        return await file_call(
            lambda: store.resolve_existing(requested, self._folder),
            doing=f"look for the image {requested}",
        )

    async def manifest(self, image: Path, *, strict: bool = False) -> Manifest:
        """Read the manifest of an image; `strict` if something is done with the image.

        Raises:
            NotFound, ImageCorrupt, PermissionDenied: as `verify.read_manifest`.
            DeadlineExceeded: its filesystem does not answer.
        """
        return await file_call(
            lambda: read_manifest(image, strict=strict), doing=f"read the image {image}"
        )

    async def list(self) -> list[ImageView]:
        """List the images below the configured folder, newest first."""
        return await file_call(
            lambda: store.list_images(self._folder),
            doing=f"list the images in {self._folder}",
            deadline_s=LIST_S,
        )

    async def remove(self, requested: str) -> None:
        """Delete an image that lies below the configured folder."""
        await file_call(
            lambda: store.remove(requested, self._folder, VerifyCache(self._verified)),
            doing=f"remove the image {requested}",
            deadline_s=REMOVE_S,
        )

    async def tidy(self, kept: Callable[[], set[str] | None], log: Callable[[str], None]) -> None:
        """Remove the remains of interrupted checkpoints, and cache entries of removed images.

        `kept` is called before each removal: it returns the staging folders to keep, or None to
        stop. `log` logs a removal.
        """
        await file_call(
            lambda: self._tidy(kept, log),
            doing=f"tidy up {self._folder}",
            deadline_s=REMOVE_S,
        )

    def _tidy(self, kept: Callable[[], set[str] | None], log: Callable[[str], None]) -> None:
        VerifyCache(self._verified).prune()
        for path in store.stale_stagings(self._folder):
            stay = kept()
            if stay is None:
                return
            if str(path) in stay:
                continue
            log(f"removing {path}: it is not in use")
            try:
                files.remove_tree(path)
            except (CryoError, OSError) as error:
                log(f"{path} was not removed: {error}")
