"""A small service over a real socket, and a peer that sends whatever bytes it likes."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Generic, Self, TypeVar

from google.protobuf.message import DecodeError, Message
from google.protobuf.wrappers_pb2 import StringValue

from shim.api.ttrpc import request_pb2
from shim.errors import InvalidArgument
from shim.service.ttrpc import frame as frames
from shim.service.ttrpc.client import Client
from shim.service.ttrpc.frame import Frame, Kind
from shim.service.ttrpc.limits import Limits
from shim.service.ttrpc.method import Call, Services
from shim.service.ttrpc.server import Server

_Request = TypeVar("_Request", bound=Message)

SERVICE = "test.v1.Echo"
SOON_S = 60.0


def bind(path: Path) -> socket.socket:
    """Listen at a path."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen()
    return listener


@dataclass(frozen=True)
class Unary(Generic[_Request]):
    """One unary method: the class of its request, and the coroutine that answers."""

    request: type[_Request]
    answer: Callable[[_Request, Call], Awaitable[Message]]
    completes: bool = False

    async def run(self, payload: bytes, call: Call) -> bytes:
        try:
            request = self.request.FromString(payload)
        except DecodeError as error:
            message = f"the {self.request.DESCRIPTOR.name} is garbled"
            raise InvalidArgument(message) from error
        return (await self.answer(request, call)).SerializeToString()


@dataclass
class Echo:
    """Answers with what it is asked; `hold` and `finish` wait for `release`, and are counted."""

    release: asyncio.Event = field(default_factory=asyncio.Event)
    held: int = 0
    ended: int = 0
    undo_s: float = 0.0
    error: BaseException | None = None

    async def echo(self, request: StringValue, call: Call) -> StringValue:
        return request

    async def space(self, request: StringValue, call: Call) -> StringValue:
        return StringValue(value=call.metadata[request.value])

    async def fail(self, request: StringValue, call: Call) -> StringValue:
        assert self.error is not None
        raise self.error

    async def long(self, request: StringValue, call: Call) -> StringValue:
        return StringValue(value="x" * int(request.value))

    async def hold(self, request: StringValue, call: Call) -> StringValue:
        self.held += 1
        try:
            await self.release.wait()
        except asyncio.CancelledError:
            await asyncio.sleep(self.undo_s)
            raise
        finally:
            self.ended += 1
        return request

    def services(self) -> Services:
        names = ("echo", "space", "fail", "long", "hold")
        methods = {name: Unary(StringValue, getattr(self, name)) for name in names}
        return {SERVICE: {**methods, "finish": Unary(StringValue, self.hold, completes=True)}}


_LIMITS = Limits()


@contextlib.asynccontextmanager
async def serving(
    services: Services, path: Path, limits: Limits = _LIMITS
) -> AsyncIterator[Server]:
    """Serve for as long as it is wanted."""
    server = Server(services, limits)
    server.serve(bind(path))
    try:
        yield server
    finally:
        await server.close()
        path.unlink()


async def ask(client: Client, method: str, value: str = "", timeout_s: float = SOON_S) -> str:
    """Call a method of the service."""
    request = StringValue(value=value)
    answer = await client.call(SERVICE, method, request, StringValue, timeout_s=timeout_s)
    return answer.value


async def until(condition: Callable[[], object]) -> None:
    """Let the loop turn until something has come true."""
    async with asyncio.timeout(SOON_S):
        while not condition():  # noqa: ASYNC110  # there is no event to wait for
            await asyncio.sleep(0.001)


def request(method: str, value: str = "", timeout_nano: int = 0) -> bytes:
    """Write a request as a stranger does."""
    payload = StringValue(value=value).SerializeToString()
    message = request_pb2.Request(
        service=SERVICE, method=method, payload=payload, timeout_nano=timeout_nano
    )
    return message.SerializeToString()


class Peer:
    """A client that is no client of ours."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    @classmethod
    async def connect(cls, path: Path) -> Self:
        return cls(*await asyncio.open_unix_connection(str(path)))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.leave()

    async def leave(self) -> None:
        self.writer.close()
        with contextlib.suppress(OSError):
            await self.writer.wait_closed()

    def send(self, stream: int, payload: bytes, kind: int = Kind.REQUEST, flags: int = 0) -> None:
        self.raw(frames.Header(len(payload), stream, kind, flags).pack() + payload)

    def raw(self, data: bytes) -> None:
        self.writer.write(data)

    async def frame(self) -> Frame:
        async with asyncio.timeout(SOON_S):
            header = frames.unpack(await self.reader.readexactly(frames.HEADER_SIZE))
            return Frame(header, await self.reader.readexactly(header.size_bytes))

    async def answer(self) -> tuple[int, request_pb2.Response]:
        """Return the next answer and the stream that it is for."""
        header, payload = await self.frame()
        assert (header.kind, header.flags) == (Kind.RESPONSE, 0)
        assert payload is not None
        return header.stream, request_pb2.Response.FromString(payload)

    async def code(self, stream: int) -> int:
        """Return the status of the next answer, which must be for this stream."""
        found, response = await self.answer()
        assert found == stream
        return response.status.code

    async def gone(self) -> bool:
        """Return whether the server has hung up."""
        async with asyncio.timeout(SOON_S):
            return await self.reader.read(1) == b""
