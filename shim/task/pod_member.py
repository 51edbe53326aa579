"""What a container is in a pod that is being restored: a container of the image, or none of it."""

from __future__ import annotations

import asyncio
from pathlib import Path

import msgspec

from shim.config import Config
from shim.errors import ImageCorrupt, InvalidArgument
from shim.image.images import Images
from shim.image.manifest import Manifest, Member
from shim.model import CreateRequest
from shim.oci import document, pod
from shim.oci.document import Spec
from shim.task.container import Container
from shim.task.origin import Origin
from shim.task.plan import ImageSource, plan
from shim.task.pod_volumes import TaskFolder
from shim.task.record import Absent


async def member_origin(
    config: Config, images: Images, root: Container, request: CreateRequest, folder_of: TaskFolder
) -> Origin:
    """Decide for a container whose pod's sandbox, `root`, is being restored from a named image.

    Raises:
        ImageCorrupt: the image was replaced since the sandbox was created.
        InvalidArgument: the container differs from that of its name in the image.
    """
    image, manifest = await images.to_restore(root.record.image_path)
    if manifest.digest != root.record.image_digest:
        message = f"image {image} was replaced since sandbox {root.ref.id} was created"
        raise ImageCorrupt(message, remedy="create the pod again")
    spec = await asyncio.to_thread(document.load, Path(request.bundle), restoring=True)
    name = pod.name_of(spec)
    absent = absence(manifest, name)
    if absent is not None:
        return Origin(request=request, absent=absent)
    _check_image(manifest.member(name), spec)
    chosen = msgspec.structs.replace(request, checkpoint=root.record.image_path)
    source = ImageSource(manifest=manifest)
    ready = await asyncio.to_thread(plan, config, chosen, folder_of, source)
    return Origin(request=chosen, source=source, plan=ready)


def absence(manifest: Manifest, name: str) -> Absent | None:
    """Return how a container starts that the image lacks; None for one of the image."""
    if any(one.name == name for one in manifest.members):
        return None
    return Absent.FINISHED if name in manifest.finished else Absent.HELD_BACK


def _check_image(saved: Member, spec: Spec) -> None:
    """Check that a container has the image reference of the saved one, where both name one.

    Raises:
        InvalidArgument: it has another.
    """
    was = document.parse(saved.spec, Path(saved.bundle), restoring=True)
    old, new = (one.annotations.get(pod.IMAGE_NAME, "") for one in (was, spec))
    if old and new and old != new:
        message = f"container {saved.name} was saved with the image {old}, and has {new}"
        raise InvalidArgument(message, remedy="save the pod again with its new image")
