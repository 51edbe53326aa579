"""Converts the messages about names of images to plain values and back."""

from __future__ import annotations

import json

from shim.api.cryo.v1 import cryo_pb2
from shim.host.text import printable
from shim.image.name_view import NamedImageView, NameView
from shim.image.named import ImageRef
from shim.image.named_use import NamedUse, NameOutcome, Reason
from shim.service.convert import from_time, named, to_time

_TEXT_MAX = 4096
_OUTCOMES = {one: cryo_pb2.NameOutcome.Value(f"NAME_OUTCOME_{one.name}") for one in NameOutcome}


def to_name(view: NameView) -> cryo_pb2.NameInfo:
    """Encode a name."""
    use = view.use
    return cryo_pb2.NameInfo(
        namespace=view.namespace,
        name=view.name,
        kubernetes_namespace=view.kubernetes_namespace,
        images=[_to_image(image) for image in view.images],
        hits=use.hits,
        misses=use.misses,
        refusals=use.refusals,
        saves=use.saves,
        skips=use.skips,
        failures=use.failures,
        reasons=[_to_reason(reason) for reason in use.reasons],
    )


def from_name(message: cryo_pb2.NameInfo) -> NameView:
    """Decode a name."""
    inner = message.HasField("kubernetes_namespace")
    return NameView(
        namespace=message.namespace,
        name=message.name,
        kubernetes_namespace=message.kubernetes_namespace if inner else None,
        images=tuple(_from_image(image) for image in message.images),
        use=NamedUse(
            hits=message.hits,
            misses=message.misses,
            refusals=message.refusals,
            saves=message.saves,
            skips=message.skips,
            failures=message.failures,
            reasons=tuple(_from_reason(reason) for reason in message.reasons),
        ),
    )


def ref_of(
    namespace: str, request: cryo_pb2.ShowNameRequest | cryo_pb2.DropNameRequest
) -> ImageRef:
    """Decode the full name in a request.

    Raises:
        InvalidArgument: a part of it is not valid.
    """
    inner = request.HasField("kubernetes_namespace")
    return ImageRef(
        namespace=namespace,
        name=request.name,
        kubernetes_namespace=request.kubernetes_namespace if inner else None,
    )


def _to_image(view: NamedImageView) -> cryo_pb2.NamedImage:
    return cryo_pb2.NamedImage(
        path=view.path,
        fingerprint=view.fingerprint,
        created_at=to_time(view.created_at),
        size_bytes=view.size_bytes,
        digest=view.digest,
        parts_json=json.dumps(view.parts),
    )


def _from_image(message: cryo_pb2.NamedImage) -> NamedImageView:
    return NamedImageView(
        path=message.path,
        fingerprint=message.fingerprint,
        created_at=from_time(message.created_at),
        size_bytes=message.size_bytes,
        digest=message.digest,
        parts=json.loads(message.parts_json or "{}"),
    )


def _to_reason(reason: Reason) -> cryo_pb2.NameReason:
    return cryo_pb2.NameReason(
        outcome=_OUTCOMES[reason.outcome],
        text=printable(reason.text, _TEXT_MAX),
        count=reason.count,
        last=to_time(reason.last),
    )


def _from_reason(message: cryo_pb2.NameReason) -> Reason:
    return Reason(
        outcome=named(_OUTCOMES, message.outcome, "outcome"),
        text=message.text,
        count=message.count,
        last=from_time(message.last),
    )
