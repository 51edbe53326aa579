"""The operations on checkpoint images that need no task."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from shim.config import Config
from shim.distribution.image_diff import ImageDiff, compare
from shim.host.filecalls import file_call
from shim.image import offline, signature, timelines, trust
from shim.image.eviction import Pruned
from shim.image.images import Images
from shim.image.name import ImageName
from shim.image.retention import AS_CONFIGURED, PruneOptions
from shim.image.verify import HeldImage
from shim.model import ImageView, KeyFile, Report, Timeline, Verify, utcnow
from shim.runsc.probe import Capabilities
from shim.transaction import restore
from shim.transaction.worker import in_thread

if TYPE_CHECKING:
    from shim.image.keys import PublicKey


class ImageService:
    """Lists, inspects, verifies, names, pins and removes images."""

    def __init__(
        self, config: Config, images: Images, capabilities: Callable[[], Awaitable[Capabilities]]
    ) -> None:
        """Take the image store, and what returns the capabilities of the configured runsc."""
        self._config = config
        self._images = images
        self._capabilities = capabilities

    async def inspect(self, image: str, namespace: str) -> dict[str, Any]:
        """Return the manifest of an image, given its path or its name in a namespace."""
        path = await self._images.find(image, namespace)
        return await file_call(lambda: offline.inspect(path), doing=f"read the image {path}")

    async def timeline(self, image: str, namespace: str) -> Timeline:
        """Return where the time of an image's checkpoint went, given its path or its name."""
        path = await self._images.find(image, namespace)
        return await file_call(lambda: timelines.read(path), doing=f"read the image {path}")

    async def verify(
        self,
        image: str,
        mode: Verify,
        report: Report,
        namespace: str,
        *,
        untrusted_folder: bool = False,
        required: Sequence[KeyFile] = (),
    ) -> dict[str, Any]:
        """Check a whole image, and whether this host can run it; return the manifest.

        One of the `required` keys has to have signed it, if there are any.
        """
        held = HeldImage(await self._images.find(image, namespace), strict=not untrusted_folder)
        try:
            manifest = await restore.check_image(held, mode, self._config, report)
            await restore.check_host(manifest, self._config, await self._capabilities())
            return await file_call(
                lambda: offline.verified(
                    held,
                    manifest,
                    keys=trust.configured_keys(self._config.trust),
                    required=[_parse(key) for key in required],
                    host_checked=True,
                ),
                doing=f"read the signatures of {held.image}",
            )
        finally:
            held.close()

    async def statement(self, image: str, namespace: str) -> bytes:
        """Return what is signed for an image."""
        path = await self._images.find(image, namespace)
        return await file_call(
            lambda: signature.image_statement(path), doing=f"read the image {path}"
        )

    async def add_signature(self, image: str, namespace: str, key: KeyFile, signed: bytes) -> int:
        """Add a signature to an image; return how many it has."""
        path = await self._images.find(image, namespace)
        return await file_call(
            lambda: signature.add(path, _parse(key), signed), doing=f"sign the image {path}"
        )

    async def diff(self, old: str, new: str, namespace: str, report: Report) -> ImageDiff:
        """Compare two images."""
        one, other = [await self._images.find(image, namespace) for image in (old, new)]
        return await in_thread(lambda progress: compare(one, other, progress), report)

    async def remove(self, image: str, namespace: str) -> bool:
        """Delete an image, or one of several names of it; return whether it was the image."""
        return await self._images.remove(image, namespace)

    async def tag(self, image: str, name: ImageName, ttl_s: float) -> Path:
        """Give an image a name, and an expiry if `ttl_s` is not 0; return its path."""
        expires_at = utcnow() + timedelta(seconds=ttl_s) if ttl_s else None
        return await self._images.tag(image, name, expires_at=expires_at)

    async def untag(self, image: str, name: ImageName) -> Path:
        """Take a name from an image; return its path."""
        return await self._images.untag(image, name)

    async def pin(self, image: str, namespace: str, *, pinned: bool) -> Path:
        """Keep an image from being removed, or no longer; return its path."""
        return await self._images.pin(image, namespace, pinned=pinned)

    async def prune(self, options: PruneOptions = AS_CONFIGURED) -> Pruned:
        """Remove images that are not to be kept, by the configuration and these options."""
        return await self._images.prune(options)

    async def prune_cache(self) -> None:
        """Remove the entries of removed images from the verification cache."""
        await self._images.prune_cache()

    # Last: below it, `list` in an annotation would mean this method.
    async def list(self) -> list[ImageView]:
        """List the images below the configured folder, newest first."""
        return await self._images.list()


def _parse(key: KeyFile) -> PublicKey:
    from shim.image import keys  # noqa: PLC0415  # cryptography is loaded on use

    return keys.parse_public(key.pem, key.name)
