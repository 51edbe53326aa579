"""The identity of a runsc build, as manifests record it. Hashed once per binary."""

from __future__ import annotations

import asyncio
from pathlib import Path

from shim.errors import FailedPrecondition
from shim.host.oserror import typed
from shim.image.directory import hash_file
from shim.image.manifest import Build
from shim.runsc.probe import UNVERSIONED, Capabilities, identity
from shim.transaction.target import CheckpointTarget

_known: dict[tuple[int, ...], str] = {}


async def runsc_build(capabilities: Capabilities) -> Build:
    """Identify a runsc by its version, and if it has none by the BLAKE3 of its binary.

    Builds from the Go module all print the same version, so only the binary distinguishes them.

    Raises:
        FailedPrecondition: another file is in its place.
    """
    if capabilities.version != UNVERSIONED:
        return Build(version=capabilities.version)
    key = capabilities.identity
    if key not in _known:
        digest = await asyncio.to_thread(hash_file, Path(capabilities.binary))
        try:
            is_same = identity(capabilities.binary) == key
        except OSError as error:
            raise typed(error, f"look at {capabilities.binary}") from error
        if not is_same:
            message = f"{capabilities.binary} was replaced while it was looked at"
            raise FailedPrecondition(message, remedy="try again")
        _known[key] = digest
    return Build(version=capabilities.version, digest=_known[key])


async def check_unchanged(target: CheckpointTarget) -> None:
    """Check that the runsc in use is the one that the sandbox runs.

    Another one may not be able to save it, and could not restore what it has saved.

    Raises:
        Refused: it was replaced since the sandbox was created.
    """
    for one in target.containers:
        await one.runsc.check_program(one.ref.id, target.sandbox)
    # A digest is read from the file, and kept: after the save another one may be there.
    await runsc_build(target.runsc.capabilities)
