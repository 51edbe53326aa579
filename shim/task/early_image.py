"""Whether the image of a pod was made too early: while an init container still ran.

No annotation tells an init container from another one. But the kubelet starts the others when it
has ended: then a container joins that the image lacks, and one that the image has is finished. A
pod that is restored from such an image continues its init container, and starts all others cold.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

from shim.host.filecalls import file_call
from shim.image.verify import read_manifest
from shim.task.container import Container
from shim.task.sandbox import Sandbox


async def ended_since(path: Path, sandbox: Sandbox, joined: Container) -> list[str]:
    """Return the names of the containers in an image that have ended, if another has joined since.

    Raises:
        CryoError: the image cannot be read: it was replaced or dropped.
    """
    manifest = await file_call(
        lambda: read_manifest(path, strict=True), doing=f"read the image {path}"
    )
    saved = {one.name for one in manifest.members}

    def compare() -> list[str]:
        if joined.name in saved:
            return []
        running = {one.name for one in sandbox.containers[1:]}
        return sorted(saved.intersection(sandbox.root.record.finished) - running)

    return await asyncio.to_thread(compare)
