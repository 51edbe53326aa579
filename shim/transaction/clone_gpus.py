"""The GPUs of the clones of an image, as its engine and this host's driver allow."""

from __future__ import annotations

import asyncio

from shim.config import Config
from shim.cuda import driver, inventory
from shim.cuda.spread import GpuSpread
from shim.errors import CryoError
from shim.image.manifest import Manifest
from shim.model import EngineName, Phase, Progress, Report
from shim.transaction import memory


async def spread_of(manifest: Manifest, config: Config, report: Report) -> GpuSpread:
    """Return what chooses the GPUs; warn if all clones get the same ones although there are others.

    Raises:
        CryoError: this host has no driver.
    """
    if not manifest.has_cuda:
        return GpuSpread((), (), (), {})
    found = await asyncio.to_thread(inventory.read, config.cuda.nvidia_proc)
    used = manifest.used_gpus or tuple(gpu.uuid for gpu in manifest.gpus)
    if why := _fixed(manifest, found.driver):
        others = len(used) < len(found.gpus)
        if others:
            text = f"all clones use the GPUs of the image: {why}"
            report(Progress(phase=Phase.VERIFY, message=text, warning=True))
        return GpuSpread(manifest.gpus, used, (), {})
    free_bytes = {}
    try:
        free_bytes = await memory.free_bytes(config)
    except CryoError as error:
        text = f"the free memory of the GPUs is unknown, they are used in turn: {error}"
        report(Progress(phase=Phase.VERIFY, message=text, warning=True))
    return GpuSpread(manifest.gpus, used, found.gpus, free_bytes)


def _fixed(manifest: Manifest, version: str) -> str:
    """Return why the processes cannot move to other GPUs; empty if they can."""
    if manifest.engine == EngineName.BUILTIN:
        return "runsc's own engine takes no device map; checkpoint with --engine phased"
    if not driver.capabilities(version).device_map:
        return f"driver {version} takes no device map, 580 or newer does"
    return ""
