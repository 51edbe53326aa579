"""Converts task events to containerd's messages, by one factory for each topic."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from typing import Any

from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.message import Message

from shim.api.containerd.events import task_pb2
from shim.api.containerd.types import event_pb2
from shim.api.cryo.v1 import cryo_pb2
from shim.errors import InvalidArgument
from shim.host.text import printable
from shim.model import Event, Stdio
from shim.service import convert, task_messages
from shim.task import name_counters, operation_events

TEXT_MAX = 4096
_Fields = Mapping[str, Any]
_Factory = Callable[[str, _Fields], Message]


def envelope(event: Event) -> event_pb2.Envelope:
    """Encode an event with its time, namespace and topic.

    Raises:
        InvalidArgument: the topic is unknown, or a field is missing or of the wrong type.
    """
    return packed(event.topic, event.ref.namespace, event.at, _message(event))


def packed(topic: str, namespace: str, at: datetime, message: Message) -> event_pb2.Envelope:
    """Encode the message of an event with its time, namespace and topic."""
    # Consumers of containerd's events compare the bare name, without type.googleapis.com.
    any_ = AnyMessage(type_url=message.DESCRIPTOR.full_name, value=message.SerializeToString())
    return event_pb2.Envelope(
        timestamp=convert.to_time(at), namespace=namespace, topic=topic, event=any_
    )


def _message(event: Event) -> Message:
    make = _FACTORIES.get(event.topic)
    if make is None:
        message = f"unknown event topic {event.topic!r}"
        raise InvalidArgument(message)
    try:
        return make(event.ref.id, event.fields)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        why = f"{type(error).__name__}: {error}"
        message = f"an event of {event.topic} has a missing or invalid field: {why}"
        raise InvalidArgument(message) from error


def _only_id(kind: Callable[..., Message]) -> _Factory:
    def make(id: str, _: _Fields) -> Message:
        return kind(container_id=id)

    return make


def _create(id: str, fields: _Fields) -> Message:
    stdio: Stdio = fields["stdio"]
    return task_pb2.TaskCreate(
        container_id=id,
        bundle=fields["bundle"],
        rootfs=[task_messages.to_mount(mount) for mount in fields["rootfs"]],
        io=task_pb2.TaskIO(
            stdin=stdio.stdin, stdout=stdio.stdout, stderr=stdio.stderr, terminal=stdio.terminal
        ),
        checkpoint=fields["checkpoint"],
        pid=fields["pid"],
    )


def _start(id: str, fields: _Fields) -> Message:
    return task_pb2.TaskStart(container_id=id, pid=fields["pid"])


def _delete(id: str, fields: _Fields) -> Message:
    at: datetime = fields["exited_at"]
    return task_pb2.TaskDelete(
        container_id=id,
        id=fields.get("id", ""),
        pid=fields["pid"],
        exit_status=fields["exit_status"],
        exited_at=convert.to_time(at),
    )


def _exit(id: str, fields: _Fields) -> Message:
    at: datetime = fields["exited_at"]
    return task_pb2.TaskExit(
        container_id=id,
        id=fields["id"],
        pid=fields["pid"],
        exit_status=fields["exit_status"],
        exited_at=convert.to_time(at),
    )


def _exec_added(id: str, fields: _Fields) -> Message:
    return task_pb2.TaskExecAdded(container_id=id, exec_id=fields["exec_id"])


def _exec_started(id: str, fields: _Fields) -> Message:
    return task_pb2.TaskExecStarted(container_id=id, exec_id=fields["exec_id"], pid=fields["pid"])


def _checkpointed(id: str, fields: _Fields) -> Message:
    return task_pb2.TaskCheckpointed(container_id=id, checkpoint=fields["checkpoint"])


def _warning(id: str, fields: _Fields) -> Message:
    return cryo_pb2.TaskWarning(container_id=id, text=printable(fields["text"], TEXT_MAX))


def _operation(id: str, fields: _Fields) -> Message:
    return cryo_pb2.OperationEvent(
        container_id=id,
        image_path=fields.get("image_path", ""),
        seconds=fields.get("seconds", 0.0),
        size_bytes=fields.get("size_bytes", 0),
        error_kind=fields.get("error_kind", ""),
        error=printable(fields.get("error", ""), TEXT_MAX),
    )


def _warm_start(id: str, fields: _Fields) -> Message:
    return cryo_pb2.WarmStartEvent(
        container_id=id,
        name=fields["name"],
        kubernetes_namespace=fields["kubernetes_namespace"],
        reason=printable(fields["reason"], TEXT_MAX),
    )


def _many(names: Iterable[str], stages: Iterable[str], make: _Factory) -> dict[str, _Factory]:
    return {f"/cryo/{name}-{stage}": make for name, stage in itertools.product(names, stages)}


_FACTORIES: dict[str, _Factory] = {
    "/tasks/create": _create,
    "/tasks/start": _start,
    "/tasks/delete": _delete,
    "/tasks/exit": _exit,
    "/tasks/oom": _only_id(task_pb2.TaskOOM),
    "/tasks/exec-added": _exec_added,
    "/tasks/exec-started": _exec_started,
    "/tasks/paused": _only_id(task_pb2.TaskPaused),
    "/tasks/resumed": _only_id(task_pb2.TaskResumed),
    "/tasks/checkpointed": _checkpointed,
    # Not below /tasks/: consumers of those expect containerd's own types only.
    "/cryo/warning": _warning,
    **_many(operation_events.OPERATIONS, operation_events.STAGES, _operation),
    **_many(("warm",), name_counters.TOPICS.values(), _warm_start),
}
