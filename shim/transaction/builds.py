"""The identity of a runsc build, as manifests record it. Hashed once per binary."""

from __future__ import annotations

import asyncio
from pathlib import Path

from shim.image.directory import hash_file
from shim.image.manifest import Build
from shim.runsc.probe import UNVERSIONED, Capabilities

_known: dict[tuple[int, ...], str] = {}


async def runsc_build(capabilities: Capabilities) -> Build:
    """Identify a runsc by its version, and if it has none by the BLAKE3 of its binary.

    Builds from the Go module all print the same version, so only the binary distinguishes them.
    """
    if capabilities.version != UNVERSIONED:
        return Build(version=capabilities.version)
    key = capabilities.identity
    if key not in _known:
        _known[key] = await asyncio.to_thread(hash_file, Path(capabilities.binary))
    return Build(version=capabilities.version, digest=_known[key])
