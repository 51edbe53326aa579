"""What checkpoints on this host depend on: versions, engines, driver, GPUs, directories."""

from __future__ import annotations

import platform
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime

from shim import __version__
from shim.config import Config
from shim.cuda import inventory
from shim.host import hugepages
from shim.runsc.probe import Capabilities


class HostInfo:
    """Describes the host."""

    def __init__(self, config: Config, capabilities: Callable[[], Awaitable[Capabilities]]) -> None:
        """Take the settings, and what returns the capabilities of the configured runsc."""
        self._config = config
        self._capabilities = capabilities

    async def info(self) -> dict[str, str]:
        """Return the facts by name.

        Raises:
            Unavailable: there is no runsc.
        """
        able = await self._capabilities()
        found = inventory.read(self._config.cuda.nvidia_proc)
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
            "images": self._config.paths.images,
            "state": self._config.paths.state,
            "time": datetime.now(UTC).isoformat(),
        }
