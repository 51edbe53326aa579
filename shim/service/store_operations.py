"""cryo.v1: the names, pins and limits of the image store."""

from __future__ import annotations

from shim.api.cryo.v1 import cryo_pb2
from shim.image import name as names
from shim.image.eviction import Pruned
from shim.image.retention import PruneOptions
from shim.service import store_messages
from shim.service.convert import from_duration, to_duration
from shim.service.cryo_table import CRYO
from shim.service.operation import OWNER_S, Call, Incoming, Owner


@CRYO.add(cryo_pb2.TagImageRequest, cryo_pb2.TagImageResponse, Owner.SERVER)
async def TagImage(call: Incoming, request: cryo_pb2.TagImageRequest) -> cryo_pb2.TagImageResponse:
    """Give an image a name, or take one from it."""
    images, name = call.service.core.images, names.parse(request.name, call.namespace)
    if request.remove:
        path = await images.untag(request.image, name)
    else:
        path = await images.tag(request.image, name, from_duration(request.ttl))
    return cryo_pb2.TagImageResponse(image_path=str(path))


def tag(image: str, name: str, namespace: str = "", *, ttl_s: float = 0.0) -> Call[str]:
    """Give an image a name, NAME or NAME:TAG, which any other image loses; return its path.

    The image is given by its absolute path or another name. If `ttl_s` is not 0, the image
    may be removed that long from now.
    """
    request = cryo_pb2.TagImageRequest(
        namespace=namespace, image=image, name=name, ttl=to_duration(ttl_s) if ttl_s else None
    )
    return TagImage.call(request, lambda answer: answer.image_path)


def untag(image: str, name: str, namespace: str = "") -> Call[str]:
    """Take a name from an image, which stays; return its path."""
    request = cryo_pb2.TagImageRequest(namespace=namespace, image=image, name=name, remove=True)
    return TagImage.call(request, lambda answer: answer.image_path)


@CRYO.add(cryo_pb2.PinImageRequest, cryo_pb2.PinImageResponse, Owner.SERVER)
async def PinImage(call: Incoming, request: cryo_pb2.PinImageRequest) -> cryo_pb2.PinImageResponse:
    """Keep an image from being removed, or no longer."""
    images = call.service.core.images
    path = await images.pin(request.image, call.namespace, pinned=request.pinned)
    return cryo_pb2.PinImageResponse(image_path=str(path))


def pin(image: str, namespace: str = "") -> Call[str]:
    """Keep an image, given by its path or its name, from being removed; return its path."""
    request = cryo_pb2.PinImageRequest(namespace=namespace, image=image, pinned=True)
    return PinImage.call(request, lambda answer: answer.image_path)


def unpin(image: str, namespace: str = "") -> Call[str]:
    """Let an image be removed again; return its path."""
    request = cryo_pb2.PinImageRequest(namespace=namespace, image=image, pinned=False)
    return PinImage.call(request, lambda answer: answer.image_path)


@CRYO.add(cryo_pb2.PruneImagesRequest, cryo_pb2.PruneImagesResponse, Owner.SERVER, OWNER_S)
async def PruneImages(
    call: Incoming, request: cryo_pb2.PruneImagesRequest
) -> cryo_pb2.PruneImagesResponse:
    """Remove the images that are not to be kept."""
    options = PruneOptions(
        dry_run=request.dry_run,
        keep_last=request.keep_last or None,
        older_than_s=from_duration(request.older_than) or None,
        quota_bytes=request.quota_bytes if request.HasField("quota_bytes") else None,
    )
    return store_messages.to_pruned(await call.service.core.images.prune(options))


def prune(
    *,
    dry_run: bool = False,
    keep_last: int | None = None,
    older_than_s: float | None = None,
    quota_bytes: int | None = None,
) -> Call[Pruned]:
    """Remove the images that the sidecar's configuration, with these changes, does not keep.

    With `dry_run` nothing is removed, and the result has what would be.
    """
    request = cryo_pb2.PruneImagesRequest(
        dry_run=dry_run,
        keep_last=keep_last or 0,
        older_than=to_duration(older_than_s) if older_than_s else None,
        quota_bytes=quota_bytes,
    )
    return PruneImages.call(request, store_messages.from_pruned)
