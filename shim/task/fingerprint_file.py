"""The fingerprint of a container, kept in its folder from its creation until it is saved.

Settings and runsc may change meanwhile; the image belongs to those that the container runs with.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

import msgspec

from shim.host.oserror import typed
from shim.image.named import PARTS, Fingerprint, read_fingerprint
from shim.task.container import Container
from shim.transaction.fingerprint import fingerprint


def write(folder: Path, found: Fingerprint) -> None:
    """Write it, without fsync, as a reboot ends the container as well."""
    try:
        (folder / PARTS).write_bytes(msgspec.json.encode(found))
    except OSError as error:
        raise typed(error, f"write {folder / PARTS}") from error


async def of(task: Container) -> Fingerprint:
    """Return the fingerprint that the task was created with; for older tasks, one of now."""
    kept = await asyncio.to_thread(read_fingerprint, task.files.folder)
    if kept is not None:
        return kept
    context, record = task.context, task.record
    able = await context.capabilities()
    return await asyncio.to_thread(
        lambda: fingerprint(
            task.files.spec,
            record.mounts,
            context.config,
            able,
            gpu=record.gpu,
            own_flags=record.own_flags,
        )
    )
