"""cryo.v1: signatures of images, and how two images differ."""

from __future__ import annotations

import msgspec

from shim.api.cryo.v1 import cryo_pb2
from shim.distribution.image_diff import ImageDiff
from shim.model import KeyFile
from shim.service.cryo_table import CRYO
from shim.service.operation import ENDLESS, Call, Incoming, Owner, Stream


@CRYO.add(cryo_pb2.ImageStatementRequest, cryo_pb2.ImageStatementResponse, Owner.SERVER)
async def ImageStatement(
    call: Incoming, request: cryo_pb2.ImageStatementRequest
) -> cryo_pb2.ImageStatementResponse:
    """Return what is signed for an image."""
    payload = await call.service.core.images.statement(request.image, call.namespace)
    return cryo_pb2.ImageStatementResponse(payload=payload)


def image_statement(image: str, namespace: str = "") -> Call[bytes]:
    """Return what is signed for an image, given its absolute path or its name."""
    request = cryo_pb2.ImageStatementRequest(image=image, namespace=namespace)
    return ImageStatement.call(request, lambda answer: answer.payload)


@CRYO.add(cryo_pb2.AddSignatureRequest, cryo_pb2.AddSignatureResponse, Owner.SERVER)
async def AddSignature(
    call: Incoming, request: cryo_pb2.AddSignatureRequest
) -> cryo_pb2.AddSignatureResponse:
    """Add a signature to an image."""
    key = KeyFile(name=request.key.name, pem=request.key.pem)
    images = call.service.core.images
    number = await images.add_signature(request.image, call.namespace, key, request.signature)
    return cryo_pb2.AddSignatureResponse(signatures=number)


def add_signature(image: str, key: KeyFile, signature: bytes, namespace: str = "") -> Call[int]:
    """Add a signature to an image, given its absolute path or its name.

    `signature` is of the statement of the image, encoded as DSSE has it, by the private key of
    `key`. Returns how many signatures the image has.
    """
    request = cryo_pb2.AddSignatureRequest(
        image=image,
        namespace=namespace,
        key=cryo_pb2.PublicKey(name=key.name, pem=key.pem),
        signature=signature,
    )
    return AddSignature.call(request, lambda answer: int(answer.signatures))


@CRYO.add(
    cryo_pb2.DiffImagesRequest, cryo_pb2.DiffImagesUpdate, Owner.SERVER, ENDLESS, streams=True
)
async def DiffImages(
    call: Incoming, request: cryo_pb2.DiffImagesRequest
) -> cryo_pb2.DiffImagesUpdate:
    """Compare two images."""
    found = await call.service.core.images.diff(
        request.old, request.new, call.namespace, call.report
    )
    return cryo_pb2.DiffImagesUpdate(diff_json=msgspec.json.encode(found).decode("utf-8"))


def diff(old: str, new: str, namespace: str = "") -> Stream[ImageDiff]:
    """Compare two images, given their absolute paths or their names."""
    request = cryo_pb2.DiffImagesRequest(old=old, new=new, namespace=namespace)
    return DiffImages.stream(
        request,
        lambda update: msgspec.json.decode(update.diff_json, type=ImageDiff),
        f"comparison of {old} and {new}",
    )
