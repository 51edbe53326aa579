"""Events as they are listed: decoded from the form in which they are published."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime

from google.protobuf.message import DecodeError, Message
from google.protobuf.timestamp_pb2 import Timestamp

from shim.api.containerd.events import task_pb2
from shim.api.containerd.types import event_pb2
from shim.api.cryo.v1 import cryo_pb2
from shim.host.text import printable
from shim.model import EventView

_TASK = "container_id"
_STATUS = "exit_status"
_TEXT_MAX = 4096
_TOPICS = ("/tasks/", "/cryo/")
_MESSAGES: dict[str, type[Message]] = {
    one.DESCRIPTOR.full_name: one
    for one in (
        task_pb2.TaskCreate,
        task_pb2.TaskStart,
        task_pb2.TaskDelete,
        task_pb2.TaskExit,
        task_pb2.TaskOOM,
        task_pb2.TaskExecAdded,
        task_pb2.TaskExecStarted,
        task_pb2.TaskPaused,
        task_pb2.TaskResumed,
        task_pb2.TaskCheckpointed,
        cryo_pb2.TaskWarning,
        cryo_pb2.OperationEvent,
        cryo_pb2.WarmStartEvent,
    )
}


def view(envelope: event_pb2.Envelope) -> EventView | None:
    """Return an event as it is listed; None for one that is not about tasks or images of ours."""
    if not envelope.topic.startswith(_TOPICS):
        return None
    kind = _MESSAGES.get(envelope.event.type_url.rpartition("/")[2])
    if kind is None:
        return None
    message = kind()
    try:
        message.ParseFromString(envelope.event.value)
    except DecodeError:
        return None
    fields = dict(_plain(message))
    return EventView(
        at=envelope.timestamp.ToDatetime(tzinfo=UTC),
        namespace=envelope.namespace,
        task=fields.pop(_TASK, ""),
        kind=envelope.topic.rpartition("/")[2],
        fields=fields,
    )


def _plain(message: Message) -> Iterator[tuple[str, str]]:
    """Yield the fields that are numbers, texts and times; mounts, say, may have passwords."""
    if _STATUS in message.DESCRIPTOR.fields_by_name:
        yield _STATUS, str(getattr(message, _STATUS))  # also 0, which is not listed below
    for field, value in message.ListFields():
        if isinstance(value, Timestamp):
            yield field.name, value.ToDatetime(tzinfo=UTC).isoformat()
        elif isinstance(value, str | int | float):
            yield field.name, printable(str(value), _TEXT_MAX)


def to_info(one: EventView) -> cryo_pb2.EventInfo:
    """Encode an event."""
    info = cryo_pb2.EventInfo(
        namespace=one.namespace, task=one.task, kind=one.kind, fields=one.fields
    )
    info.at.FromDatetime(one.at)
    return info


def from_info(info: cryo_pb2.EventInfo) -> EventView:
    """Decode an event."""
    return EventView(
        at=_time(info.at),
        namespace=info.namespace,
        task=info.task,
        kind=info.kind,
        fields=dict(info.fields),
    )


def _time(stamp: Timestamp) -> datetime:
    return stamp.ToDatetime(tzinfo=UTC)
