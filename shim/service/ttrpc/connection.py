"""One connection of a server: its requests run concurrently, and most are cancelled at its end."""

from __future__ import annotations

import asyncio
import logging
from typing import NoReturn

from shim.api.ttrpc import request_pb2
from shim.errors import (
    CryoError,
    DeadlineExceeded,
    InvalidArgument,
    ResourceExhausted,
    Unimplemented,
)
from shim.host import log_fields
from shim.host.background import BackgroundTasks
from shim.host.shielded import ended
from shim.service import failure
from shim.service.ttrpc import envelope, frame
from shim.service.ttrpc.channel import Channel
from shim.service.ttrpc.frame import Frame, Header, Kind
from shim.service.ttrpc.method import Call, Method, Services

_log = logging.getLogger(__name__)


class Connection:
    """Answers the requests of one peer, in the order in which they complete."""

    def __init__(self, channel: Channel, services: Services, calls_max: int) -> None:
        self._channel = channel
        self._services = services
        self._calls_max = calls_max
        self._background = BackgroundTasks()
        self._calls: dict[int, asyncio.Task[None]] = {}
        # The streams of the calls that the end of the connection does not cancel.
        self._completing: set[int] = set()
        self._last = 0
        self._refusal: CryoError | None = None

    async def run(self) -> None:
        """Serve until the peer disconnects; then cancel its calls, and wait for the end of each.

        Calls of methods that complete are not cancelled.
        """
        try:
            while (received := await self._channel.receive()) is not None:
                await self._take(received)
        except OSError as error:
            _log.debug("the peer disconnected before its response was sent: %s", error)
        finally:
            await self._abandon()

    async def finish(self, refusal: CryoError) -> None:
        """Refuse new requests with an error, and return when all others have been answered."""
        self._refusal = refusal
        while self._calls:
            await asyncio.wait(self._calls.values())

    async def _abandon(self) -> None:
        # A second cancellation would interrupt the rollback that the first one started.
        calls = dict(self._calls)
        for stream in calls.keys() - self._completing:
            calls[stream].cancel()
        for call in calls.values():
            # Also if this task is cancelled meanwhile: the calls must end first.
            await ended(call)
        await self._channel.close()

    # -- requests ------------------------------------------------------------------------------

    async def _take(self, received: Frame) -> None:
        """Start a call, or send its error; frames of other kinds are ignored."""
        stream = received.header.stream
        if received.header.kind == Kind.DATA and stream in self._calls:
            _log.debug("data for stream %d, which takes none", stream)
            return
        if received.header.kind not in {Kind.REQUEST, Kind.DATA}:
            _log.debug("a frame of kind %d is ignored", received.header.kind)
            return
        try:
            request = self._admit(received)
        except CryoError as error:
            await self._channel.send(stream, Kind.RESPONSE, envelope.write_failure(error))
        else:
            self._begin(stream, request)

    def _admit(self, received: Frame) -> request_pb2.Request:
        """Check a frame, and return the request that it carries.

        Raises:
            CryoError: it has none that can be served; the class depends on why.
        """
        header = received.header
        if header.kind == Kind.DATA:
            message = f"stream {header.stream} takes no data"
            raise InvalidArgument(message)
        self._check_stream(header)
        if received.payload is None:
            message = f"a message of {header.size_bytes} bytes is longer than {frame.PAYLOAD_MAX}"
            raise ResourceExhausted(message)
        if header.flags & frame.REMOTE_OPEN:
            message = "streams are not served"
            raise Unimplemented(message)
        self._check_room()
        return envelope.read_request(received.payload)

    def _check_stream(self, header: Header) -> None:
        if header.stream % 2 == 0:
            message = f"stream {header.stream} is even: a client's are odd"
            raise InvalidArgument(message)
        if header.stream <= self._last:
            message = f"stream {header.stream} comes after {self._last}: they must increase"
            raise InvalidArgument(message)
        self._last = header.stream

    def _check_room(self) -> None:
        if self._refusal is not None:
            raise self._refusal.with_traceback(None)
        if len(self._calls) >= self._calls_max:
            message = f"{self._calls_max} calls are under way on this connection"
            raise ResourceExhausted(message, remedy="wait for one to end")

    # -- calls ---------------------------------------------------------------------------------

    def _begin(self, stream: int, request: request_pb2.Request) -> None:
        call = self._background.start(
            self._serve(stream, request),
            name=f"{request.service}/{request.method}",
            on_crash=self._hang_up,
        )
        self._calls[stream] = call
        if self._completes(request):
            self._completing.add(stream)
        call.add_done_callback(lambda _: self._forget(stream))

    def _completes(self, request: request_pb2.Request) -> bool:
        method = self._services.get(request.service, {}).get(request.method)
        return method is not None and method.completes

    def _forget(self, stream: int) -> None:
        del self._calls[stream]
        self._completing.discard(stream)

    def _hang_up(self, _error: BaseException) -> None:
        # The caller gets no response, and would otherwise wait without end.
        self._background.start(self._channel.close(), name="end of a connection")

    async def _serve(self, stream: int, request: request_pb2.Request) -> None:
        """Run one call and send its response; the call counts until it is sent."""
        answer = await self._answer(request)
        try:
            await self._channel.send(stream, Kind.RESPONSE, answer)
        except OSError as error:
            _log.debug("the response of %s was not sent: %s", request.method, error)

    async def _answer(self, request: request_pb2.Request) -> bytes:
        name = f"{request.service}/{request.method}"
        metadata = envelope.metadata_of(request)
        with log_fields.request():
            try:
                payload = await self._run(request, Call(metadata))
                return _fitting(envelope.write_answer(payload))
            except (Exception, asyncio.CancelledError) as error:  # noqa: BLE001  # each becomes a status
                ours = failure.of(error, name)
                _log.info("%s: %s: %s", name, type(ours).__name__, ours)
                return envelope.write_failure(ours, whole=envelope.WHOLE_ERRORS in metadata)

    async def _run(self, request: request_pb2.Request, call: Call) -> bytes:
        """Run a method; at the caller's deadline cancel it and wait for its end."""
        method = self._find(request)
        deadline = asyncio.timeout(envelope.timeout_of(request))
        try:
            async with deadline:
                return await method.run(request.payload, call)
        except TimeoutError:
            if deadline.expired():
                _late(request)
            raise

    def _find(self, request: request_pb2.Request) -> Method:
        methods = self._services.get(request.service)
        if methods is None:
            message = f"there is no service {request.service!r}"
            raise Unimplemented(message)
        if request.method not in methods:
            message = f"{request.service} has no method {request.method!r}"
            raise Unimplemented(message)
        return methods[request.method]


def _late(request: request_pb2.Request) -> NoReturn:
    message = f"{request.method} did not end within the caller's {envelope.timeout_of(request)} s"
    raise DeadlineExceeded(message, remedy="raise its timeout")


def _fitting(response: bytes) -> bytes:
    if len(response) > frame.PAYLOAD_MAX:
        message = f"the answer of {len(response)} bytes is longer than {frame.PAYLOAD_MAX}"
        raise ResourceExhausted(message)
    return response
