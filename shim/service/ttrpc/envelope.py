"""The payloads of frames: requests with their metadata, and responses with their status."""

from __future__ import annotations

from collections.abc import Mapping

from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.message import DecodeError

from shim.api.ttrpc import request_pb2
from shim.errors import CryoError, InvalidArgument
from shim.service import status
from shim.service.code import Code

# A caller that sends this key gets the whole error, as a detail of the status. Others do not:
# containerd appends every unknown detail to the text that it prints.
WHOLE_ERRORS = "cryo-whole-errors"

# The metadata key in which containerd sends the namespace of a call.
NAMESPACE_KEY = "containerd-namespace-ttrpc"

_INFO = "cryo.v1.ErrorInfo"
_NS_PER_S = 1_000_000_000
_INT64_MAX = (1 << 63) - 1


def read_request(payload: bytes) -> request_pb2.Request:
    """Decode a request.

    Raises:
        InvalidArgument: it cannot be decoded.
    """
    try:
        return request_pb2.Request.FromString(payload)
    except DecodeError as error:
        message = "the request is garbled"
        raise InvalidArgument(message) from error


def write_request(
    service: str, method: str, payload: bytes, timeout_s: float | None, metadata: Mapping[str, str]
) -> bytes:
    """Encode a request; a timeout of None is no timeout."""
    pairs = [request_pb2.KeyValue(key=key, value=value) for key, value in metadata.items()]
    timeout_ns = 0 if timeout_s is None else max(1, round(timeout_s * _NS_PER_S))
    request = request_pb2.Request(
        service=service,
        method=method,
        payload=payload,
        timeout_nano=min(timeout_ns, _INT64_MAX),
        metadata=[*pairs, request_pb2.KeyValue(key=WHOLE_ERRORS, value="1")],
    )
    return request.SerializeToString()


def metadata_of(request: request_pb2.Request) -> dict[str, str]:
    """Return the metadata of a request; of several values of a key the first counts."""
    found: dict[str, str] = {}
    for pair in request.metadata:
        found.setdefault(pair.key.lower(), pair.value)
    return found


def timeout_of(request: request_pb2.Request) -> float | None:
    """Return the caller's timeout in seconds; None if it has none."""
    return request.timeout_nano / _NS_PER_S if request.timeout_nano else None


def write_answer(payload: bytes) -> bytes:
    """Encode the response of a successful call."""
    # An empty status rather than none, because early clients require one.
    response = request_pb2.Response(status=request_pb2.Status(), payload=payload)
    return response.SerializeToString()


def write_failure(error: CryoError, *, whole: bool = False) -> bytes:
    """Encode the response of a failed call."""
    outcome = request_pb2.Status(code=status.code_of(error).value, message=status.details_of(error))
    if whole:
        info = status.info_of(error).SerializeToString()
        outcome.details.append(AnyMessage(type_url=_INFO, value=info))
    return request_pb2.Response(status=outcome).SerializeToString()


def read_response(payload: bytes) -> bytes:
    """Return the payload of a response.

    Raises:
        CryoError: the call failed, or the response cannot be decoded.
    """
    try:
        response = request_pb2.Response.FromString(payload)
    except DecodeError as error:
        message = "the response is garbled"
        raise CryoError(message) from error
    if response.status.code:
        raise _error_of(response.status)
    return response.payload


def _error_of(outcome: request_pb2.Status) -> CryoError:
    packed = next((one.value for one in outcome.details if one.type_url == _INFO), None)
    try:
        code = Code(outcome.code)
    except ValueError:
        code = Code.UNKNOWN
    return status.error_of(code, outcome.message or code.name.lower(), packed)
