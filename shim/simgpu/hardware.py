"""A machine with the host's own GPU: the same workload on the CUDA driver API.

Not tried yet: no GPU was at hand when this was written.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

from shim.simgpu.bundle import Settings
from shim.simgpu.machine import Machine

_NODE = Path("/dev/nvidia0")
_DRIVER = Path("/proc/driver/nvidia/version")
_ENVIRONMENT = ("NVIDIA_VISIBLE_DEVICES=all", "NVIDIA_DRIVER_CAPABILITIES=compute,utility")


def why_not(*, tool: bool) -> str:
    """Return why the host's GPU cannot be used, empty when it can.

    `tool` is whether there is something to do the CUDA steps with.
    """
    if not _NODE.exists() or not _DRIVER.exists():
        return "this machine has no NVIDIA GPU"
    if not tool:
        return "this machine has an NVIDIA GPU, and neither cuda-checkpoint nor a usable cryo-cuda"
    return ""


class Hardware(Machine):
    """The product finds GPU, driver and cuda-checkpoint by itself, as for any container."""

    host_dev: ClassVar[bool] = True

    def hardware(self, content: dict[str, Any], settings: Settings) -> None:
        """Ask for the GPUs in the way that images do."""
        del settings
        content["process"]["env"] += _ENVIRONMENT
