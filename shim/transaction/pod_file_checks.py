"""Checks before a save that another pod of the template has the files of a pod's volumes in use.

Only a restore in the same pod has these files. A checkpoint warns of them, and one that is made
for other pods is refused.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from shim.errors import Impossible, Refused, Unavailable
from shim.host.text import first_few
from shim.oci.pod_files import PodFiles
from shim.runsc.output import GuestProcess
from shim.runsc.process_dump import DumpedProcess
from shim.transaction.target import CheckpointTarget


async def check_parts(target: CheckpointTarget, *, for_copies: bool) -> list[str]:
    """Return a warning that names the emptyDir volumes whose contents will not be in the image.

    Raises:
        Impossible: the image is `for_copies`.
    """

    def look() -> list[str]:
        kubelet = target.config.pods.kubelet
        return [
            f"{name} (of container {one.name})"
            for one in target.members
            for name in PodFiles(one.spec, kubelet).parts(target.spec)
        ]

    found = await asyncio.to_thread(look)
    if not found:
        return []
    message = (
        "volumes that are mounted with subPath are on the host, and not in the image: "
        f"{first_few(found)}"
    )
    remedy = (
        "mount the whole volume; or, if a restored pod may have it empty, name it in the pod's "
        "annotation io.cryo.host-volumes"
    )
    if for_copies:
        raise Impossible(message, remedy=remedy)
    return [message]


async def check_in_use(
    target: CheckpointTarget, listed: Sequence[list[GuestProcess]], *, for_copies: bool
) -> list[str]:
    """Return a warning that names the files in use that other pods do not have.

    `listed` has what `ps` has listed in each container.

    Raises:
        Refused: the image is `for_copies`.
    """
    kubelet = target.config.pods.kubelet
    members = list(zip(target.members, listed[1:], strict=True))
    volumes = await asyncio.to_thread(lambda: [PodFiles(one.spec, kubelet) for one, _ in members])
    if not any(one.any for one in volumes):
        return []
    try:
        dumped = await target.runsc.sentry.dump(target.ref.id)
    except Unavailable as error:
        return [f"open files that another pod does not have cannot be determined: {error}"]
    found = [
        f"{one.name}: {text}"
        for (one, rows), pod_files in zip(members, volumes, strict=True)
        for text in pod_files.missing(
            {path for row in rows for path in _paths(dumped.get(row.pid))}
        )
    ]
    if not found:
        return []
    message = f"files are in use that another pod does not have: {first_few(found)}"
    remedy = (
        "close them before the checkpoint, for example in an io.cryo.hook.pre-freeze, or keep the "
        "volume in the sandbox"
    )
    if for_copies:
        raise Refused(message, remedy=remedy)
    return [message]


def _paths(process: DumpedProcess | None) -> frozenset[str]:
    return frozenset() if process is None else process.paths
