"""The gRPC parts of both clients: channel options, metadata, and errors from statuses."""

from __future__ import annotations

import contextlib
import math
import os
from typing import Any, Protocol

import grpc

from shim.api.cryo.v1 import cryo_pb2
from shim.errors import CryoError, InvalidArgument, PermissionDenied, Unavailable
from shim.model import Phase, Progress, Report, TaskRef
from shim.service import cryo_messages, endpoint, status
from shim.service.cryo_operations import Cancel
from shim.service.operation import Call

DEFAULT_TIMEOUT_S = 60.0

# A rollback is bounded by the sidecar; this is for a sidecar that hangs.
ROLLBACK_S = 300.0

_NAMESPACE_KEY = "containerd-namespace"
_MESSAGE_MAX = 4 << 20

OPTIONS = (
    ("grpc.max_receive_message_length", _MESSAGE_MAX),
    ("grpc.max_send_message_length", _MESSAGE_MAX),
    # By default gRPC sends the escaped socket path, which strict servers refuse.
    ("grpc.default_authority", "localhost"),
    # Reconnect to a restarted sidecar at once, not after gRPC's minute.
    ("grpc.initial_reconnect_backoff_ms", 100),
    # Despite its name, the timeout of one attempt to connect; a busy host needs more than the
    # backoff above.
    ("grpc.min_reconnect_backoff_ms", 20_000),
    ("grpc.max_reconnect_backoff_ms", 1000),
    # Otherwise clients of one address share a connection, and a new client could start with one
    # that an older client has lost with its sidecar without detecting it yet.
    ("grpc.use_local_subchannel_pool", 1),
)

# Without an ErrorInfo these come from gRPC: a stopping server cancels calls not yet started.
_LOST = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED)

_Outcome = cryo_pb2.CancelResponse
_OUTCOMES = {
    _Outcome.OUTCOME_CANCELLED: "cancelled and rolled back",
    _Outcome.OUTCOME_COMPLETED: "had completed before it could be cancelled",
    _Outcome.OUTCOME_FAILED: "failed while it was cancelled",
    _Outcome.OUTCOME_UNKNOWN: "cancelled",
}


class Failed(Protocol):
    """A failed call, blocking or async: its status, message and metadata."""

    def code(self) -> grpc.StatusCode:
        """Return the status code."""

    def details(self) -> str | None:
        """Return the status message."""

    def trailing_metadata(self) -> Any:
        """Return the trailing metadata."""


def ref_of(task: str | TaskRef, namespace: str) -> TaskRef:
    """Complete a task's name with the client's namespace."""
    return task if isinstance(task, TaskRef) else TaskRef(namespace=namespace, id=task)


def metadata_of(call: Call[Any]) -> tuple[tuple[str, str], ...]:
    """Return the metadata of a call: the namespace, where the request has no field for it."""
    return ((_NAMESPACE_KEY, call.namespace),) if call.namespace else ()


def deadline_of(call: Call[Any], usual_s: float) -> float | None:
    """Return a call's timeout for gRPC, where None is no timeout."""
    seconds = usual_s if call.timeout_s is None else call.timeout_s
    return None if math.isinf(seconds) else seconds


def failure(error: Failed, address: str) -> CryoError:
    """Return the CryoError of a failed call."""
    packed = None
    for key, value in error.trailing_metadata() or ():
        if key == status.ERROR_KEY:
            packed = value
    details = error.details() or error.code().name.lower()
    if packed is None and error.code() in _LOST:
        return _unreachable(address, details)
    return status.error_of(error.code(), details, packed)


def _unreachable(address: str, details: str) -> CryoError:
    if "failed to connect" not in details:
        message = f"the connection to the sidecar was lost: {details}"
        return Unavailable(message, remedy="check that it is running; tasks survive its restart")
    if not _reachable(address):
        message = f"no access to the sidecar's socket {endpoint.parse(address)}"
        remedy = "run as root, or join the group that the sidecar's config names"
        return PermissionDenied(message, remedy=remedy)
    message = f"no sidecar answers at {address}"
    return Unavailable(message, remedy="start one with `cryo serve`, or pass its address")


def _reachable(address: str) -> bool:
    path = endpoint.parse(address)
    try:
        path.stat()
    except PermissionError:
        return False
    except OSError:
        return True
    return os.access(path, os.W_OK)


def report_progress(report: Report | None, message: cryo_pb2.Progress) -> None:
    """Report one progress update; a phase that only newer versions have is skipped."""
    if report is not None:
        with contextlib.suppress(InvalidArgument):
            report(cryo_messages.from_progress(message))


def report_rollback(report: Report | None, message: str) -> None:
    """Report that a rollback begins, or how it ended."""
    if report is not None:
        report(Progress(phase=Phase.ROLLBACK, message=message))


def cancel(token: str) -> Call[cryo_pb2.CancelResponse]:
    """Cancel an operation by its token; the response has its outcome."""
    request = cryo_pb2.CancelRequest(operation=token)
    return Cancel.call(request, lambda answer: answer, timeout_s=ROLLBACK_S)


def outcome_of(what: str, answer: cryo_pb2.CancelResponse) -> str:
    """Describe how a cancelled operation ended."""
    text = f"{what}: {_OUTCOMES.get(answer.outcome, 'cancelled')}"
    return f"{text}: {answer.message}" if answer.message else text


def no_result(what: str) -> CryoError:
    """Return the error for a stream that ended successfully without a result."""
    message = f"the {what} ended without a result"
    return CryoError(message, remedy="use a client and a sidecar of the same version")
