"""cryo.v1 on images and their names, and the calls that clients make of them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from shim.api.cryo.v1 import cryo_pb2
from shim.image.name_view import NameView
from shim.model import ImageView, KeyFile, Verify, check_id
from shim.service import cryo_messages, name_messages
from shim.service.cryo_table import CRYO
from shim.service.operation import ENDLESS, OWNER_S, Call, Incoming, Owner, Stream


@CRYO.add(cryo_pb2.ListImagesRequest, cryo_pb2.ListImagesResponse, Owner.SERVER)
async def ListImages(
    call: Incoming, request: cryo_pb2.ListImagesRequest
) -> cryo_pb2.ListImagesResponse:
    """List the images."""
    views = await call.service.core.images.list()
    return cryo_pb2.ListImagesResponse(images=[cryo_messages.to_image(view) for view in views])


def images() -> Call[list[ImageView]]:
    """List the images below the sidecar's image directory, newest first."""
    return ListImages.call(
        cryo_pb2.ListImagesRequest(),
        lambda answer: [cryo_messages.from_image(image) for image in answer.images],
    )


@CRYO.add(cryo_pb2.InspectImageRequest, cryo_pb2.InspectImageResponse, Owner.SERVER)
async def InspectImage(
    call: Incoming, request: cryo_pb2.InspectImageRequest
) -> cryo_pb2.InspectImageResponse:
    """Return the manifest of an image."""
    manifest = await call.service.core.images.inspect(request.image_path, call.namespace)
    return cryo_pb2.InspectImageResponse(manifest_json=json.dumps(manifest))


def inspect(image: str, namespace: str = "") -> Call[dict[str, Any]]:
    """Return the manifest of an image, given its absolute path or its name."""
    request = cryo_pb2.InspectImageRequest(image_path=image, namespace=namespace)
    return InspectImage.call(request, lambda answer: _object(answer.manifest_json))


@CRYO.add(
    cryo_pb2.VerifyImageRequest,
    cryo_pb2.VerifyImageUpdate,
    Owner.SERVER,
    ENDLESS,
    streams=True,
)
async def VerifyImage(
    call: Incoming, request: cryo_pb2.VerifyImageRequest
) -> cryo_pb2.VerifyImageUpdate:
    """Check an image against its seal and this host."""
    manifest = await call.service.core.images.verify(
        request.image_path,
        cryo_messages.from_verify(request.mode),
        call.report,
        call.namespace,
        untrusted_folder=request.untrusted_folder,
        required=[KeyFile(name=key.name, pem=key.pem) for key in request.keys],
    )
    return cryo_pb2.VerifyImageUpdate(manifest_json=json.dumps(manifest))


def verify(
    image: str,
    mode: Verify = Verify.FULL,
    *,
    namespace: str = "",
    untrusted_folder: bool = False,
    keys: Sequence[KeyFile] = (),
) -> Stream[dict[str, Any]]:
    """Check an image, given its absolute path or its name; return its manifest.

    It is compared with its seal and with this host. `untrusted_folder` accepts an image in a
    directory that another user can change. One of `keys`, if given, must have signed the image.
    """
    request = cryo_pb2.VerifyImageRequest(
        image_path=image,
        mode=cryo_messages.to_verify(mode),
        untrusted_folder=untrusted_folder,
        namespace=namespace,
        keys=[cryo_pb2.PublicKey(name=key.name, pem=key.pem) for key in keys],
    )
    return VerifyImage.stream(
        request, lambda update: _object(update.manifest_json), f"verification of {image}"
    )


@CRYO.add(cryo_pb2.RemoveImageRequest, cryo_pb2.RemoveImageResponse, Owner.SERVER, OWNER_S)
async def RemoveImage(
    call: Incoming, request: cryo_pb2.RemoveImageRequest
) -> cryo_pb2.RemoveImageResponse:
    """Delete an image."""
    removed = await call.service.core.images.remove(request.image_path, call.namespace)
    return cryo_pb2.RemoveImageResponse(name_only=not removed)


def remove(image: str, namespace: str = "") -> Call[bool]:
    """Delete an image below the sidecar's image directory, given its path or its name.

    Returns whether the image was deleted: one that has other names loses only the given name.
    """
    request = cryo_pb2.RemoveImageRequest(image_path=image, namespace=namespace)
    return RemoveImage.call(request, lambda answer: not answer.name_only)


@CRYO.add(cryo_pb2.ListNamesRequest, cryo_pb2.ListNamesResponse, Owner.SERVER)
async def ListNames(
    call: Incoming, request: cryo_pb2.ListNamesRequest
) -> cryo_pb2.ListNamesResponse:
    """List the names of images."""
    views = await call.service.core.names.list(check_id("namespace", call.namespace))
    return cryo_pb2.ListNamesResponse(names=[name_messages.to_name(view) for view in views])


def names(namespace: str = "") -> Call[list[NameView]]:
    """List the names of images in a namespace; the default is the client's namespace."""
    return ListNames.call(
        cryo_pb2.ListNamesRequest(namespace=namespace),
        lambda answer: [name_messages.from_name(name) for name in answer.names],
    )


@CRYO.add(cryo_pb2.ShowNameRequest, cryo_pb2.ShowNameResponse, Owner.SERVER)
async def ShowName(call: Incoming, request: cryo_pb2.ShowNameRequest) -> cryo_pb2.ShowNameResponse:
    """Describe a name."""
    view = await call.service.core.names.show(name_messages.ref_of(call.namespace, request))
    return cryo_pb2.ShowNameResponse(name=name_messages.to_name(view))


def show_name(
    name: str, namespace: str = "", *, kubernetes_namespace: str | None = None
) -> Call[NameView]:
    """Describe a name: its images, what their fingerprints were computed from, and its use."""
    request = cryo_pb2.ShowNameRequest(
        namespace=namespace, name=name, kubernetes_namespace=kubernetes_namespace
    )
    return ShowName.call(request, lambda answer: name_messages.from_name(answer.name))


@CRYO.add(cryo_pb2.DropNameRequest, cryo_pb2.DropNameResponse, Owner.SERVER, OWNER_S)
async def DropName(call: Incoming, request: cryo_pb2.DropNameRequest) -> cryo_pb2.DropNameResponse:
    """Delete the images of a name."""
    number = await call.service.core.names.drop(name_messages.ref_of(call.namespace, request))
    return cryo_pb2.DropNameResponse(images=number)


def drop_name(
    name: str, namespace: str = "", *, kubernetes_namespace: str | None = None
) -> Call[int]:
    """Delete the images and the counters of a name; return how many images there were."""
    request = cryo_pb2.DropNameRequest(
        namespace=namespace, name=name, kubernetes_namespace=kubernetes_namespace
    )
    return DropName.call(request, lambda answer: int(answer.images))


def _object(text: str) -> dict[str, Any]:
    value: dict[str, Any] = json.loads(text)
    return value
