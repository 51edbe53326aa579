"""The operations on checkpoint images that need no task."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from shim.config import Config
from shim.image.contents import described
from shim.image.images import Images
from shim.image.verify import HeldImage
from shim.model import ImageView, Report, Verify
from shim.runsc.probe import Capabilities
from shim.transaction import restore


class ImageService:
    """Lists, inspects, verifies and removes images."""

    def __init__(
        self, config: Config, images: Images, capabilities: Callable[[], Awaitable[Capabilities]]
    ) -> None:
        """Take the image store, and what returns the capabilities of the configured runsc."""
        self._config = config
        self._images = images
        self._capabilities = capabilities

    async def inspect(self, image_path: str) -> dict[str, Any]:
        """Return an image's manifest as plain data."""
        return described(await self._images.manifest(await self._images.find(image_path)))

    async def verify(
        self, image_path: str, mode: Verify, report: Report, *, untrusted_folder: bool = False
    ) -> dict[str, Any]:
        """Check a whole image, and whether this host can run it; return the manifest."""
        held = HeldImage(await self._images.find(image_path), strict=not untrusted_folder)
        try:
            manifest = await restore.check_image(held, mode, self._config, report)
        finally:
            held.close()
        await restore.check_host(manifest, self._config, await self._capabilities())
        return described(manifest)

    async def remove(self, image_path: str) -> None:
        """Delete an image below the configured folder."""
        await self._images.remove(image_path)

    # Last: below it, `list` in an annotation would mean this method.
    async def list(self) -> list[ImageView]:
        """List the images below the configured folder, newest first."""
        return await self._images.list()
