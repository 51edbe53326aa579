"""Converts the messages about timelines to plain values and back."""

from __future__ import annotations

from shim.api.cryo.v1 import cryo_pb2
from shim.host.text import printable
from shim.model import Phase, Span, Speeds, Timeline
from shim.service.convert import from_time, named, to_time

_TEXT_MAX = 4096
_PHASES = {name: cryo_pb2.Phase.Value(f"PHASE_{name.name}") for name in Phase}


def to_timeline(timeline: Timeline) -> cryo_pb2.Timeline:
    """Encode a timeline."""
    return cryo_pb2.Timeline(
        operation=timeline.operation,
        task=timeline.task,
        began_at=to_time(timeline.began_at),
        total_s=timeline.total_s,
        spans=[_to_span(span) for span in timeline.spans],
        engine=timeline.engine,
        image_path=timeline.image_path,
        size_bytes=timeline.size_bytes,
        gpu_bytes=timeline.gpu_bytes,
        frozen_s=timeline.frozen_s,
        error=printable(timeline.error, _TEXT_MAX),
        notes=[printable(note, _TEXT_MAX) for note in timeline.notes],
        partial=timeline.partial,
    )


def from_timeline(message: cryo_pb2.Timeline) -> Timeline:
    """Decode a timeline."""
    return Timeline(
        operation=message.operation,
        task=message.task,
        began_at=from_time(message.began_at),
        total_s=message.total_s,
        spans=tuple(_from_span(span) for span in message.spans),
        engine=message.engine,
        image_path=message.image_path,
        size_bytes=message.size_bytes,
        gpu_bytes=message.gpu_bytes,
        frozen_s=message.frozen_s,
        error=message.error,
        notes=tuple(message.notes),
        partial=message.partial,
    )


def _to_span(span: Span) -> cryo_pb2.Span:
    return cryo_pb2.Span(
        phase=_PHASES[span.phase],
        name=printable(span.name, _TEXT_MAX),
        pid=span.pid,
        container=span.container,
        start_s=span.start_s,
        duration_s=span.duration_s,
        bytes=span.bytes,
    )


def _from_span(message: cryo_pb2.Span) -> Span:
    return Span(
        phase=named(_PHASES, message.phase, "phase"),
        name=message.name,
        pid=message.pid,
        container=message.container,
        start_s=message.start_s,
        duration_s=message.duration_s,
        bytes=message.bytes,
    )


def to_speeds(speeds: Speeds) -> cryo_pb2.MeasureSpeedsResponse:
    """Encode what a host can do."""
    return cryo_pb2.MeasureSpeedsResponse(
        folder=speeds.folder,
        disk_write=speeds.disk_write,
        disk_read=speeds.disk_read,
        copy=speeds.copy,
        fresh=speeds.fresh,
        digest=speeds.digest,
    )


def from_speeds(message: cryo_pb2.MeasureSpeedsResponse) -> Speeds:
    """Decode what a host can do."""
    return Speeds(
        folder=message.folder,
        disk_write=message.disk_write if message.HasField("disk_write") else None,
        disk_read=message.disk_read if message.HasField("disk_read") else None,
        copy=message.copy if message.HasField("copy") else None,
        fresh=message.fresh if message.HasField("fresh") else None,
        digest=message.digest if message.HasField("digest") else None,
    )
