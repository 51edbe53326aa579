"""The spans of an operation, from its timeline: phases, commands, and CUDA steps. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from shim.model import Span, TaskRef, Timeline, Value

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_NS_PER_S = 1_000_000_000
# Of what is measured in microseconds, one thing may seem to end after another that it is in.
_SLACK_S = 2e-6


class Operation(Value):
    """An operation, or a part of one, with its times since 1970."""

    name: str
    start_ns: int
    end_ns: int
    attributes: dict[str, str | int | float | bool] = {}
    error_kind: str = ""
    error: str = ""
    parts: tuple[Operation, ...] = ()


def of_timeline(ref: TaskRef, timeline: Timeline) -> Operation:
    """Return an operation with its phases, and in each what ran in it."""
    began_ns = (timeline.began_at - _EPOCH) // timedelta(microseconds=1) * 1000
    phases = [span for span in timeline.spans if span.is_phase]
    others = [span for span in timeline.spans if not span.is_phase]
    parts = [_part(one, began_ns, _within(one, others, phases)) for one in phases]
    left = [one for one in others if not any(_is_in(one, phase) for phase in phases)]
    attributes: dict[str, str | int | float | bool] = {
        "cryo.namespace": ref.namespace,
        "cryo.task": ref.id,
        "cryo.engine": timeline.engine,
        "cryo.image": timeline.image_path,
        "cryo.size_bytes": timeline.size_bytes,
        "cryo.gpu_bytes": timeline.gpu_bytes,
        "cryo.frozen_s": timeline.frozen_s,
    }
    return Operation(
        name=timeline.operation,
        start_ns=began_ns,
        end_ns=began_ns + _ns(timeline.total_s),
        attributes={name: value for name, value in attributes.items() if value},
        error_kind=timeline.error_kind,
        error=timeline.error,
        parts=(*parts, *(_part(one, began_ns) for one in left)),
    )


def _within(phase: Span, others: Sequence[Span], phases: Sequence[Span]) -> list[Span]:
    """Return what ran in a phase, and in no other one that is shorter."""
    return [
        one
        for one in others
        if _is_in(one, phase)
        and min((p for p in phases if _is_in(one, p)), key=lambda p: p.duration_s) is phase
    ]


def _is_in(one: Span, phase: Span) -> bool:
    begins_in = phase.start_s - _SLACK_S <= one.start_s
    ends_in = one.start_s + one.duration_s <= phase.start_s + phase.duration_s + _SLACK_S
    return begins_in and ends_in


def _part(one: Span, began_ns: int, inside: Sequence[Span] = ()) -> Operation:
    start_ns = began_ns + _ns(one.start_s)
    attributes: dict[str, str | int | float | bool] = {"cryo.phase": str(one.phase)}
    if one.pid:
        attributes |= {"cryo.pid": one.pid, "cryo.container": one.container}
    if one.bytes:
        attributes["cryo.bytes"] = one.bytes
    return Operation(
        name=one.name or (f"{one.phase} process {one.pid}" if one.pid else str(one.phase)),
        start_ns=start_ns,
        end_ns=start_ns + _ns(one.duration_s),
        attributes=attributes,
        parts=tuple(_part(each, began_ns) for each in inside),
    )


def _ns(seconds: float) -> int:
    return round(seconds * _NS_PER_S)
