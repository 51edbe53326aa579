"""The gRPC parts of both clients: channel options, metadata, and errors from statuses."""

from __future__ import annotations

from typing import Any, Protocol

import grpc

from shim.client.calls import lost, unreachable
from shim.errors import CryoError
from shim.host import trace_context
from shim.service import status

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


class Failed(Protocol):
    """A failed call, blocking or async: its status, message and metadata."""

    def code(self) -> grpc.StatusCode:
        """Return the status code."""

    def details(self) -> str | None:
        """Return the status message."""

    def trailing_metadata(self) -> Any:
        """Return the trailing metadata."""


def metadata_of(namespace: str = "") -> tuple[tuple[str, str], ...]:
    """Return the metadata of a call: its trace, and a namespace for which it has no field."""
    own = ((_NAMESPACE_KEY, namespace),) if namespace else ()
    return (*own, *trace_context.metadata().items())


def failure(error: Failed, address: str) -> CryoError:
    """Return the CryoError of a failed call."""
    packed = None
    for key, value in error.trailing_metadata() or ():
        if key == status.ERROR_KEY:
            packed = value
    details = error.details() or error.code().name.lower()
    if packed is None and error.code() in _LOST:
        return lost(details) if "failed to connect" not in details else unreachable(address)
    return status.error_of(error.code(), details, packed)
