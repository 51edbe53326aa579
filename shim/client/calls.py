"""What every transport does with a call besides sending it; loads no gRPC."""

from __future__ import annotations

import contextlib
import math
import os
from typing import Any

from shim.api.cryo.v1 import cryo_pb2
from shim.errors import CryoError, InvalidArgument, PermissionDenied, Unavailable
from shim.model import Phase, Progress, Report, TaskRef
from shim.service import address as addresses
from shim.service import cryo_messages
from shim.service.cryo_operations import Cancel
from shim.service.operation import Call

DEFAULT_TIMEOUT_S = 60.0

# A rollback is bounded by the sidecar; this is for a sidecar that hangs.
ROLLBACK_S = 300.0


class CallFailed(Exception):
    """A call failed, which is not an error of what its caller does with its answers."""

    def __init__(self, error: CryoError) -> None:
        super().__init__(error.message)
        self.error = error


_Outcome = cryo_pb2.CancelResponse
_OUTCOMES = {
    _Outcome.OUTCOME_CANCELLED: "cancelled and rolled back",
    _Outcome.OUTCOME_COMPLETED: "had completed before it could be cancelled",
    _Outcome.OUTCOME_FAILED: "failed while it was cancelled",
    _Outcome.OUTCOME_UNKNOWN: "cancelled",
}


def ref_of(task: str | TaskRef, namespace: str) -> TaskRef:
    """Complete a task's name with the client's namespace."""
    return task if isinstance(task, TaskRef) else TaskRef(namespace=namespace, id=task)


def deadline_of(call: Call[Any], usual_s: float) -> float | None:
    """Return a call's timeout where None is no timeout."""
    seconds = usual_s if call.timeout_s is None else call.timeout_s
    return None if math.isinf(seconds) else seconds


def lost(details: str) -> Unavailable:
    """Return the error of a connection that ended before its call was answered."""
    message = f"the connection to the sidecar was lost: {details}"
    return Unavailable(message, remedy="check that it is running; tasks survive its restart")


def unreachable(address: str) -> CryoError:
    """Return the error of a sidecar that cannot be connected to."""
    if not _reachable(address):
        message = f"no access to the sidecar's socket {addresses.parse(address)}"
        remedy = "run as root, or join the group that the sidecar's config names"
        return PermissionDenied(message, remedy=remedy)
    message = f"no sidecar answers at {address}"
    return Unavailable(message, remedy="start one with `cryo serve`, or pass its address")


def _reachable(address: str) -> bool:
    path = addresses.parse(address)
    try:
        os.stat(path)  # noqa: PTH116 - pathlib takes longer to load than a call takes
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
