"""cryo.v1: copies of images to and from registries, buckets, OCI layouts and archives."""

from __future__ import annotations

from uuid import uuid4

from shim.api.cryo.v1 import cryo_pb2
from shim.distribution.settings import TransferSettings
from shim.distribution.transfer import Transferred
from shim.image.named import ImageRef
from shim.service import transfer_events, transfer_results, transfer_settings
from shim.service.cryo_table import CRYO
from shim.service.operation import ENDLESS, Incoming, Owner, Stream


@CRYO.add(cryo_pb2.PushImageRequest, cryo_pb2.TransferUpdate, Owner.SERVER, ENDLESS, streams=True)
async def PushImage(call: Incoming, request: cryo_pb2.PushImageRequest) -> cryo_pb2.TransferUpdate:
    """Copy an image elsewhere."""
    image, reference = request.image, request.reference
    with transfer_events.published(call, "push", image=image, reference=reference):
        result = await call.service.core.transfers.push(
            image,
            call.namespace,
            reference,
            transfer_settings.from_settings(request.settings),
            call.report,
        )
    return cryo_pb2.TransferUpdate(result=transfer_results.to_result(result))


def push(
    image: str,
    reference: str,
    settings: TransferSettings = TransferSettings(),
    namespace: str = "",
) -> Stream[Transferred]:
    """Copy an image, given by its path or name, to a registry, bucket, OCI layout or archive.

    What is there already is not sent again. If interrupted (Ctrl-C, an error in `on_progress`),
    the reference is as it was.
    """
    token = uuid4().hex
    request = cryo_pb2.PushImageRequest(
        namespace=namespace,
        image=image,
        reference=reference,
        settings=transfer_settings.to_settings(settings),
        operation=token,
    )
    return PushImage.stream(request, _result, f"push of {image}", token)


@CRYO.add(cryo_pb2.PullImageRequest, cryo_pb2.TransferUpdate, Owner.SERVER, ENDLESS, streams=True)
async def PullImage(call: Incoming, request: cryo_pb2.PullImageRequest) -> cryo_pb2.TransferUpdate:
    """Copy an image from elsewhere to this host."""
    image = request.warm or request.name
    with transfer_events.published(call, "pull", image=image, reference=request.reference):
        return await _pulled(call, request)


async def _pulled(call: Incoming, request: cryo_pb2.PullImageRequest) -> cryo_pb2.TransferUpdate:
    transfers, settings = (
        call.service.core.transfers,
        transfer_settings.from_settings(request.settings),
    )
    if request.warm:
        inner = request.kubernetes_namespace
        ref = ImageRef(
            namespace=call.namespace,
            name=request.warm,
            kubernetes_namespace=inner if request.HasField("kubernetes_namespace") else None,
        )
        result = await transfers.pull_warm(request.reference, ref, settings, call.report)
    else:
        result = await transfers.pull(
            request.reference, call.namespace, settings, call.report, name=request.name or None
        )
    return cryo_pb2.TransferUpdate(result=transfer_results.to_result(result))


def pull(
    reference: str,
    settings: TransferSettings = TransferSettings(),
    namespace: str = "",
    *,
    name: str | None = None,
    warm: str | None = None,
    kubernetes_namespace: str | None = None,
) -> Stream[Transferred]:
    """Copy an image from a registry, bucket, OCI layout or archive to the sidecar's images.

    It gets a name: `name`, or the last part of the reference and its tag. With `warm` it is
    instead an image for the warm starts of that name. If interrupted (Ctrl-C, an error in
    `on_progress`), no image is there, and the next pull continues.
    """
    token = uuid4().hex
    request = cryo_pb2.PullImageRequest(
        namespace=namespace,
        reference=reference,
        name=name or "",
        warm=warm or "",
        kubernetes_namespace=kubernetes_namespace,
        settings=transfer_settings.to_settings(settings),
        operation=token,
    )
    return PullImage.stream(request, _result, f"pull of {reference}", token)


def _result(update: cryo_pb2.TransferUpdate) -> Transferred:
    return transfer_results.from_result(update.result)
