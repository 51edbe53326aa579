"""Conversions shared by the messages of both services: enums, time, JSON objects, streams.

`to_*` makes a message, `from_*` makes a value.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, TypeVar

from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from shim.errors import InvalidArgument
from shim.model import (
    Stdio,
)
from shim.oci import untrusted_json

if TYPE_CHECKING:
    from shim.api.containerd.task.v3 import shim_pb2
    from shim.api.cryo.v1 import cryo_pb2

PROCESS_TYPE = "types.containerd.io/opencontainers/runtime-spec/1/Process"
RESOURCES_TYPE = "types.containerd.io/opencontainers/runtime-spec/1/LinuxResources"

# Below the maximum of protobuf's Duration, so that no number overflows a timer.
_TIMEOUT_MAX_S = 365 * 86400.0
_JSON_MAX = 1 << 20

_Key = TypeVar("_Key")
_Number = TypeVar("_Number")


def named(table: Mapping[_Key, _Number], number: _Number, what: str) -> _Key:
    """Return the value of a number in a .proto enum.

    Raises:
        InvalidArgument: the number is unknown.
    """
    for key, value in table.items():
        if value == number:
            return key
    message = f"{what} {number} is not known"
    raise InvalidArgument(message, remedy="use a client and a sidecar of the same version")


def to_time(at: datetime) -> Timestamp:
    """Encode a time."""
    stamp = Timestamp()
    stamp.FromDatetime(at)
    return stamp


def from_time(stamp: Timestamp) -> datetime:
    """Decode a time, in UTC."""
    return stamp.ToDatetime(tzinfo=UTC)


def to_duration(seconds: float) -> Duration | None:
    """Encode a timeout; None for 0."""
    if not seconds:
        return None
    duration = Duration()
    duration.FromNanoseconds(round(min(seconds, _TIMEOUT_MAX_S) * 1e9))
    return duration


def from_duration(duration: Duration) -> float:
    """Decode a timeout into seconds.

    Raises:
        InvalidArgument: it is negative.
    """
    seconds = duration.seconds + duration.nanos / 1e9
    if seconds < 0:
        message = f"a timeout of {seconds} s is negative"
        raise InvalidArgument(message, remedy="omit it to use the configured timeout")
    return min(seconds, _TIMEOUT_MAX_S)


def to_json(type_url: str, value: Mapping[str, Any]) -> AnyMessage:
    """Encode an OCI object as containerd does: JSON, with its type URL."""
    return AnyMessage(type_url=type_url, value=json.dumps(value).encode())


def from_json(packed: AnyMessage, what: str) -> dict[str, Any]:
    """Decode an OCI object.

    Raises:
        InvalidArgument: it is absent, too long, or not a JSON object.
    """
    if len(packed.value) > _JSON_MAX:
        message = f"the {what} is longer than {_JSON_MAX} bytes"
        raise InvalidArgument(message)
    try:
        value = untrusted_json.decode(packed.value)
    except ValueError as error:
        message = f"the {what} is not JSON: {error}"
        raise InvalidArgument(message) from error
    if isinstance(value, dict):
        return value
    message = f"the {what} is not a JSON object"
    raise InvalidArgument(message)


def from_streams(
    message: shim_pb2.CreateTaskRequest
    | shim_pb2.ExecProcessRequest
    | shim_pb2.StateResponse
    | cryo_pb2.Stdio,
) -> Stdio:
    """Decode the four stdio fields of a process."""
    return Stdio(
        stdin=message.stdin,
        stdout=message.stdout,
        stderr=message.stderr,
        terminal=message.terminal,
    )
