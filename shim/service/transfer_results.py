"""Converts the results of pushes and pulls to plain values and back."""

from __future__ import annotations

from shim.api.cryo.v1 import cryo_pb2
from shim.distribution.transfer import Transferred


def to_result(result: Transferred) -> cryo_pb2.TransferResult:
    """Encode the result of a push or pull."""
    return cryo_pb2.TransferResult(
        image_path=result.image_path,
        reference=result.reference,
        digest=result.digest,
        bytes_total=result.bytes_total,
        bytes_moved=result.bytes_moved,
        bytes_reused=result.bytes_reused,
        blobs_moved=result.blobs_moved,
        blobs_reused=result.blobs_reused,
        seconds=result.seconds,
        name=result.name or "",
    )


def from_result(message: cryo_pb2.TransferResult) -> Transferred:
    """Decode the result of a push or pull."""
    return Transferred(
        image_path=message.image_path,
        reference=message.reference,
        digest=message.digest,
        bytes_total=message.bytes_total,
        bytes_moved=message.bytes_moved,
        bytes_reused=message.bytes_reused,
        blobs_moved=message.blobs_moved,
        blobs_reused=message.blobs_reused,
        seconds=message.seconds,
        name=message.name or None,
    )
