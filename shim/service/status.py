"""Maps errors to gRPC's status codes and back.

A failed call returns a status (with the remedy in its message, for any client) and an `ErrorInfo`
(from which our clients rebuild the error): over gRPC as trailing metadata, over ttrpc as a detail
of the status.
"""

from __future__ import annotations

import enum

from google.protobuf.message import DecodeError

from shim import errors
from shim.api.cryo.v1 import cryo_pb2
from shim.errors import CryoError, CudaError, RunscError
from shim.host.text import printable
from shim.service.code import Code

ERROR_KEY = "cryo-error-bin"

# gRPC rejects headers above 8 KiB by default; a status must not be lost for its length.
_TEXT_MAX = 1500

# The class nearest to the error decides, so a subclass needs a line only where it differs.
CODES: dict[type[CryoError], Code] = {
    errors.CryoError: Code.INTERNAL,
    errors.InvalidArgument: Code.INVALID_ARGUMENT,
    errors.NotFound: Code.NOT_FOUND,
    errors.AlreadyExists: Code.ALREADY_EXISTS,
    errors.FailedPrecondition: Code.FAILED_PRECONDITION,
    errors.Busy: Code.ABORTED,
    errors.ImageCorrupt: Code.DATA_LOSS,
    errors.DeadlineExceeded: Code.DEADLINE_EXCEEDED,
    errors.Cancelled: Code.CANCELLED,
    errors.ResourceExhausted: Code.RESOURCE_EXHAUSTED,
    errors.PermissionDenied: Code.PERMISSION_DENIED,
    errors.Unimplemented: Code.UNIMPLEMENTED,
    errors.Unavailable: Code.UNAVAILABLE,
    errors.RunscError: Code.INTERNAL,
    errors.CudaError: Code.INTERNAL,
}

# For a status without an ErrorInfo; INTERNAL then becomes a plain CryoError.
_CLASSES: dict[str, type[CryoError]] = {
    code.name: kind for kind, code in CODES.items() if code is not Code.INTERNAL
}

_KINDS: dict[str, type[CryoError]] = {
    kind.__name__: kind
    for kind in vars(errors).values()
    if isinstance(kind, type) and issubclass(kind, CryoError)
}


def code_of(error: CryoError) -> Code:
    """Return the status code of an error."""
    return next(CODES[kind] for kind in type(error).__mro__ if kind in CODES)


def details_of(error: CryoError) -> str:
    """Return the status message, all that other clients show: message and remedy."""
    return _clip("; ".join(part for part in (error.message, error.remedy) if part))


def info_of(error: CryoError) -> cryo_pb2.ErrorInfo:
    """Encode an error for `error_of`."""
    info = cryo_pb2.ErrorInfo(
        kind=type(error).__name__, message=_clip(error.message), remedy=_clip(error.remedy)
    )
    if isinstance(error, CudaError):
        info.pid = max(error.pid, 0)
    if isinstance(error, RunscError):
        info.command, info.status, info.line = error.command, error.status, _clip(error.line)
    return info


def error_of(code: enum.Enum, details: str, packed: bytes | None) -> CryoError:
    """Return the error of a failed call, by its status and its `ErrorInfo`, if it has one.

    `code` is a `Code` or gRPC's own: the names are the same.
    """
    info = _unpack(packed)
    if info is None or info.kind not in _KINDS:
        return _CLASSES.get(code.name, CryoError)(details)
    if info.kind == RunscError.__name__:
        return RunscError(info.command, info.status, info.line, remedy=info.remedy)
    if info.kind == CudaError.__name__:
        return CudaError(info.message, pid=info.pid, remedy=info.remedy)
    return _KINDS[info.kind](info.message, remedy=info.remedy)


def _unpack(packed: bytes | None) -> cryo_pb2.ErrorInfo | None:
    if packed is None:
        return None
    try:
        return cryo_pb2.ErrorInfo.FromString(packed)
    except DecodeError:
        return None


def _clip(text: str) -> str:
    return printable(text, _TEXT_MAX)
