"""One call that takes no progress, over ttrpc on the socket beside the sidecar's own.

It needs no gRPC and no event loop.
"""

from __future__ import annotations

import contextlib
import math
import socket
import time
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from google.protobuf.message import DecodeError

from shim.client import calls
from shim.errors import CryoError, DeadlineExceeded, ResourceExhausted
from shim.host import trace_context
from shim.service import address as addresses
from shim.service.operation import Call, Stream
from shim.service.ttrpc import envelope, frame
from shim.service.ttrpc.frame import Kind

_STREAM = 1
# A signal that arrives just before the thread blocks is handled only when it runs again.
_SIGNALS_S = 0.5
_T = TypeVar("_T")
_Argument = TypeVar("_Argument")


class LightConnection:
    """A connection for one call; closing it early cancels the call."""

    def __init__(self, sock: socket.socket, deadline_s: float | None) -> None:
        """Take a connected socket, and in how many seconds the call has to be answered."""
        self._sock = sock
        self._limit_s = deadline_s
        self._until_s = None if deadline_s is None else time.monotonic() + deadline_s

    def exchange(self, call: Call[Any] | Stream[Any]) -> Any:
        """Make the call and return its response: of one that streams, the last update.

        Raises:
            CryoError: it failed.
        """
        try:
            self._send(self._request(call))
            answer = envelope.read_response(self._receive())
        except TimeoutError as error:
            message = f"{call.operation.name} got no response within {self._limit_s:g} s"
            raise DeadlineExceeded(message, remedy="raise its timeout") from error
        except OSError as error:
            raise calls.lost(error.strerror or "it was closed early") from error
        try:
            return call.operation.response.FromString(answer)
        except DecodeError as error:
            message = f"the {call.operation.response.DESCRIPTOR.name} is garbled"
            raise CryoError(message) from error

    def abort(self) -> None:
        """End the call, from another thread; it fails as one whose connection was lost."""
        with contextlib.suppress(OSError):
            self._sock.shutdown(socket.SHUT_RDWR)

    def _request(self, call: Call[Any] | Stream[Any]) -> bytes:
        own = {envelope.NAMESPACE_KEY: call.namespace} if call.namespace else {}
        request = envelope.write_request(
            call.operation.service,
            call.operation.name,
            call.request.SerializeToString(),
            self._limit_s,
            {**own, **trace_context.metadata()},
        )
        if len(request) > frame.PAYLOAD_MAX:
            message = f"a request of {len(request)} bytes is longer than {frame.PAYLOAD_MAX}"
            raise ResourceExhausted(message)
        return frame.pack(_STREAM, Kind.REQUEST, request)

    def _receive(self) -> bytes:
        header = frame.unpack(self._read(frame.HEADER_SIZE))
        if header.stream != _STREAM or header.kind != Kind.RESPONSE:
            message = f"the sidecar sent a frame of kind {header.kind} on stream {header.stream}"
            raise CryoError(message, remedy="use a client and a sidecar of the same version")
        if header.size_bytes > frame.PAYLOAD_MAX:
            message = f"the answer of {header.size_bytes} bytes is longer than {frame.PAYLOAD_MAX}"
            raise ResourceExhausted(message)
        return self._read(header.size_bytes)

    def _send(self, data: bytes) -> None:
        sent = 0
        while sent < len(data):
            sent += self._step(self._sock.send, data[sent:])

    def _read(self, size: int) -> bytes:
        data = bytearray()
        while len(data) < size:
            part = self._step(self._sock.recv, size - len(data))
            if not part:
                raise ConnectionResetError
            data += part
        return bytes(data)

    def _step(self, do: Callable[[_Argument], _T], argument: _Argument) -> _T:
        """Send or receive as soon as it is possible, and handle signals meanwhile.

        Raises:
            TimeoutError: the deadline has passed.
        """
        while True:
            left_s = math.inf if self._until_s is None else self._until_s - time.monotonic()
            if left_s <= 0:
                raise TimeoutError
            self._sock.settimeout(min(left_s, _SIGNALS_S))
            with contextlib.suppress(TimeoutError):
                return do(argument)


@contextlib.contextmanager
def connected(address: str, deadline_s: float | None) -> Iterator[LightConnection | None]:
    """Connect for one call; None where no socket for light clients is served there.

    That is a sidecar of an older version, or with a long address, or none at all: gRPC knows which.
    """
    path = addresses.light_path(addresses.parse(address))
    if path is None:
        yield None
        return
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(deadline_s)
        try:
            sock.connect(path)
        except OSError:
            connection = None
        else:
            connection = LightConnection(sock, deadline_s)
        yield connection
