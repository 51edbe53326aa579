"""Conversions shared by the messages of both services: enums, time, streams.

`to_*` makes a message, `from_*` makes a value.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, TypeVar

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from shim.errors import InvalidArgument
from shim.model import Stdio

if TYPE_CHECKING:
    from shim.api.containerd.task.v3 import shim_pb2
    from shim.api.cryo.v1 import cryo_pb2

# Below the maximum of protobuf's Duration, so that no number overflows a timer.
_TIMEOUT_MAX_S = 365 * 86400.0

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
