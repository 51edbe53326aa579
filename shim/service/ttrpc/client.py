"""Calls methods over one connection, many at a time; reconnecting is left to the caller."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Self, TypeVar

from google.protobuf.message import DecodeError, Message

from shim.errors import CryoError, DeadlineExceeded, ResourceExhausted, Unavailable
from shim.service.ttrpc import envelope, frame
from shim.service.ttrpc.channel import Channel
from shim.service.ttrpc.frame import Frame, Kind

_log = logging.getLogger(__name__)

_Response = TypeVar("_Response", bound=Message)

_CONNECT_S = 10.0
_BUSY_S = 0.01


class Client:
    """One connection to a ttrpc server."""

    def __init__(self, channel: Channel, name: str) -> None:
        """Take a channel, and the server's name for error messages."""
        self._channel = channel
        self._name = name
        self._stream = -1
        self._waiting: dict[int, asyncio.Future[bytes]] = {}
        self._reading = asyncio.create_task(self._read())

    @classmethod
    async def connect(cls, path: str | Path, timeout_s: float = _CONNECT_S) -> Self:
        """Connect to a unix socket, given as a path or as `unix:///path`.

        Raises:
            Unavailable: the server does not answer in time.
        """
        name = str(path).removeprefix("unix://")
        try:
            async with asyncio.timeout(timeout_s):
                return cls(await _channel_to(name), name)
        except OSError as error:  # TimeoutError is one
            reason = error.strerror or "timed out"
            message = f"no connection to {name}: {reason}"
            raise Unavailable(message, remedy="check that its server runs") from error

    @property
    def closed(self) -> bool:
        """Return whether the connection is closed, by either side; it is not reopened."""
        return self._reading.done()

    async def call(
        self,
        service: str,
        method: str,
        request: Message,
        response_type: type[_Response],
        *,
        timeout_s: float | None = None,
        metadata: Mapping[str, str] | None = None,
    ) -> _Response:
        """Call a method and return its response; a timeout of None is no timeout.

        Raises:
            CryoError: the call failed; the class depends on the status.
            DeadlineExceeded: no answer within `timeout_s`.
            ResourceExhausted: the request is too long to send.
            Unavailable: the connection is closed.
        """
        payload = request.SerializeToString()
        answer = await self.exchange(
            service, method, payload, timeout_s=timeout_s, metadata=metadata
        )
        return _parsed(answer, response_type)

    async def exchange(
        self,
        service: str,
        method: str,
        payload: bytes,
        *,
        timeout_s: float | None = None,
        metadata: Mapping[str, str] | None = None,
    ) -> bytes:
        """Call a method with an encoded request; return the encoded response; raises as `call`."""
        request = envelope.write_request(service, method, payload, timeout_s, metadata or {})
        if len(request) > frame.PAYLOAD_MAX:
            message = f"a request of {len(request)} bytes is longer than {frame.PAYLOAD_MAX}"
            raise ResourceExhausted(message)
        try:
            async with asyncio.timeout(timeout_s) as deadline:
                answer = await self._exchange(request)
        except TimeoutError as error:
            if not deadline.expired():
                raise
            message = f"{method} got no response within {timeout_s} s"
            raise DeadlineExceeded(message, remedy="raise its timeout") from error
        return envelope.read_response(answer)

    async def close(self) -> None:
        """Close the connection; calls under way fail as unavailable."""
        self._reading.cancel()
        try:
            # Only wait for the reader to end; its outcome does not matter.
            await asyncio.wait({self._reading})
        finally:
            await self._channel.close()

    async def _exchange(self, payload: bytes) -> bytes:
        if self.closed:
            raise self._lost()
        stream = self._next_stream()
        waiting: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._waiting[stream] = waiting
        try:
            await self._channel.send(stream, Kind.REQUEST, payload)
            return await waiting
        except OSError as error:
            raise self._lost() from error
        finally:
            del self._waiting[stream]
            _discard(waiting)

    def _next_stream(self) -> int:
        if self._stream + 2 > frame.STREAM_MAX:
            message = f"the connection to {self._name} has used up its stream numbers"
            raise Unavailable(message, remedy="connect again")
        self._stream += 2
        return self._stream

    def _lost(self) -> Unavailable:
        message = f"the connection to {self._name} was lost"
        return Unavailable(message, remedy="check that its server runs")

    # -- answers -------------------------------------------------------------------------------

    async def _read(self) -> None:
        try:
            while (received := await self._channel.receive()) is not None:
                self._take(received)
        finally:
            for waiting in self._waiting.values():
                if not waiting.done():
                    waiting.set_exception(self._lost())

    def _take(self, received: Frame) -> None:
        header = received.header
        waiting = self._waiting.get(header.stream)
        if waiting is None or waiting.done() or header.kind != Kind.RESPONSE:
            _log.debug("a frame for unknown stream %d", header.stream)
        elif received.payload is None:
            message = f"the answer of {header.size_bytes} bytes is longer than {frame.PAYLOAD_MAX}"
            waiting.set_exception(ResourceExhausted(message))
        else:
            waiting.set_result(received.payload)


async def _channel_to(path: str) -> Channel:
    connecting = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connecting.setblocking(False)
    try:
        await _connect(connecting, path)
        return await Channel.over(connecting)
    except BaseException:
        connecting.close()
        raise


async def _connect(connecting: socket.socket, path: str) -> None:
    # asyncio's own sock_connect takes a full backlog for a connection in progress. Unix sockets
    # have no such state, and there is nothing to wait on: the only way is to try again.
    while True:
        try:
            connecting.connect(path)
        except BlockingIOError:
            await asyncio.sleep(_BUSY_S)
        else:
            return


def _discard(waiting: asyncio.Future[bytes]) -> None:
    """Drop a response without a waiter, even when it is an error."""
    if not waiting.cancel() and not waiting.cancelled():
        waiting.exception()


def _parsed(payload: bytes, response_type: type[_Response]) -> _Response:
    try:
        return response_type.FromString(payload)
    except DecodeError as error:
        message = f"the {response_type.DESCRIPTOR.name} is garbled"
        raise CryoError(message) from error
