"""Converts the messages about clones to plain values and back."""

from __future__ import annotations

from collections.abc import Iterable

from shim.api.cryo.v1 import cryo_pb2
from shim.host.text import printable
from shim.model import CloneResult
from shim.service import cryo_messages
from shim.service.convert import from_duration, to_duration

_TEXT_MAX = 1500


def to_results(results: Iterable[CloneResult]) -> cryo_pb2.CloneResults:
    """Encode what became of each clone."""
    return cryo_pb2.CloneResults(clones=map(_to_result, results))


def from_results(message: cryo_pb2.CloneResults) -> list[CloneResult]:
    """Decode what became of each clone."""
    return [_from_result(one) for one in message.clones]


def _to_result(result: CloneResult) -> cryo_pb2.CloneResult:
    message = cryo_pb2.CloneResult(
        id=result.id,
        took=to_duration(result.took_s),
        device_map=result.device_map,
        gpus=result.gpus,
    )
    if result.restored is not None:
        message.restored.CopyFrom(cryo_messages.to_restore_result(result.restored))
    else:
        message.error.kind = result.kind
        message.error.message = printable(result.error, _TEXT_MAX)
        message.error.remedy = printable(result.remedy, _TEXT_MAX)
    return message


def _from_result(message: cryo_pb2.CloneResult) -> CloneResult:
    restored = message.WhichOneof("outcome") == "restored"
    return CloneResult(
        id=message.id,
        took_s=from_duration(message.took),
        device_map=dict(message.device_map),
        gpus=tuple(message.gpus),
        restored=cryo_messages.from_restore_result(message.restored) if restored else None,
        kind=message.error.kind,
        error=message.error.message,
        remedy=message.error.remedy,
    )
