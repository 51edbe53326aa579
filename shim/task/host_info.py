"""What checkpoints on this host depend on: versions, engines, driver, GPUs, directories."""

from __future__ import annotations

import asyncio
import platform
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path

from shim import __version__
from shim.config import Config
from shim.cuda import inventory
from shim.errors import InvalidArgument
from shim.host import hugepages
from shim.host.filecalls import file_call
from shim.model import Speeds
from shim.runsc.probe import Capabilities
from shim.transaction import host_settings


class HostInfo:
    """Describes the host."""

    def __init__(self, config: Config, capabilities: Callable[[], Awaitable[Capabilities]]) -> None:
        """Take the settings, and what returns the capabilities of the configured runsc."""
        self._config = config
        self._capabilities = capabilities
        # Measurements at the same time would measure each other.
        self._measuring = asyncio.Lock()

    async def speeds(self, image_path: str) -> Speeds:
        """Measure memory, and the disk on which an image is, was or would be.

        Raises:
            InvalidArgument: the path is not absolute.
            CryoError: the folder cannot be written to.
        """
        from shim.image import speeds  # noqa: PLC0415 - only a process that measures loads it

        if image_path and not Path(image_path).is_absolute():
            message = f"the path {image_path!r} is not absolute"
            raise InvalidArgument(message, remedy="give the absolute path of an image")
        path = Path(image_path or self._config.paths.images)
        async with self._measuring:
            return await file_call(
                lambda: speeds.measure(_nearest_folder(path)), doing=f"measure the disk of {path}"
            )

    async def info(self) -> dict[str, str]:
        """Return the facts by name.

        Raises:
            Unavailable: there is no runsc.
        """
        able = await self._capabilities()
        found = inventory.read(self._config.cuda.nvidia_proc)
        persistence = await host_settings.persistence(self._config)
        slow = host_settings.warnings(self._config)
        if persistence.startswith("off"):
            slow = (*slow, f"persistence mode is {persistence}")
        engines = ["phased", *(["builtin"] if able.builtin_cuda else [])]
        return {
            "version": __version__,
            "python": platform.python_version(),
            "runsc": able.binary,
            "runsc_version": able.version,
            "engines": ", ".join(engines),
            "driver": found.driver or "none",
            "gpus": ", ".join(f"{gpu.model} ({gpu.uuid})" for gpu in found.gpus) or "none",
            "huge_pages": hugepages.described(),
            "persistence_mode": persistence,
            "warnings": "; ".join(slow) or "none",
            "images": self._config.paths.images,
            "state": self._config.paths.state,
            "time": datetime.now(UTC).isoformat(),
        }


def _nearest_folder(path: Path) -> Path:
    """Return the folder above an image, or the nearest one that exists."""
    return next(folder for folder in (path.parent, *path.parents) if folder.is_dir())
