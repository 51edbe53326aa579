"""Peers that violate the protocol are answered or dropped, and affect no other."""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
from google.protobuf.wrappers_pb2 import StringValue
from hypothesis import given, settings
from hypothesis import strategies as st

from shim.api.ttrpc import request_pb2
from shim.errors import CryoError, NotFound, ResourceExhausted, Unavailable
from shim.service.code import Code
from shim.service.ttrpc import frame as frames
from shim.service.ttrpc.client import Client
from shim.service.ttrpc.frame import Header, Kind
from shim.service.ttrpc.server import Server
from tests.wire.helpers_ttrpc import SERVICE, Echo, Peer, ask, bind, request, serving, until

BYTES = st.integers(0, 255)
NUMBERS = st.integers(0, 0xFFFFFFFF)


@given(NUMBERS, NUMBERS, BYTES, BYTES)
def test_headers_come_back(size_bytes: int, stream: int, kind: int, flags: int) -> None:
    """Every header is ten bytes, and reads as it was written."""
    header = Header(size_bytes, stream, kind, flags)

    assert len(header.pack()) == frames.HEADER_SIZE
    assert frames.unpack(header.pack()) == header


def test_the_bytes_of_a_frame() -> None:
    """Length, stream, kind and flags stand where containerd looks for them."""
    assert frames.pack(3, Kind.RESPONSE, b"ab") == b"\0\0\0\x02\0\0\0\x03\x02\0ab"


@pytest.fixture
async def echo() -> Echo:
    """Make the service."""
    return Echo()


@pytest.fixture
async def server(echo: Echo, tmp_path: Path) -> AsyncIterator[Server]:
    """Serve it."""
    async with serving(echo.services(), tmp_path / "s") as server:
        yield server


@pytest.fixture
async def peer(server: Server, tmp_path: Path) -> AsyncIterator[Peer]:
    """Connect to it."""
    async with await Peer.connect(tmp_path / "s") as peer:
        yield peer


async def works(peer: Peer, stream: int) -> bool:
    """Return whether a connection still serves."""
    peer.send(stream, request("echo"))
    return await peer.code(stream) == Code.OK


@pytest.mark.parametrize("stream", (0, 2, 0xFFFFFFFE))
async def test_even_streams(peer: Peer, stream: int) -> None:
    """A stream number that is the server's to give is refused on that stream."""
    peer.send(stream, request("echo"))

    assert await peer.code(stream) == Code.INVALID_ARGUMENT
    assert await works(peer, 1)


async def test_streams_must_increase(peer: Peer, echo: Echo) -> None:
    """A stream number that came before is refused, whether its call is under way or over."""
    peer.send(7, request("hold"))
    for stream in (7, 5):
        peer.send(stream, request("echo"))
        assert await peer.code(stream) == Code.INVALID_ARGUMENT
    echo.release.set()

    assert await peer.code(7) == Code.OK
    peer.send(7, request("echo"))
    assert await peer.code(7) == Code.INVALID_ARGUMENT
    assert await works(peer, 0xFFFFFFFF)


@pytest.mark.parametrize("kind", (0, Kind.RESPONSE, 4, 255))
async def test_unknown_kinds_are_passed_over(peer: Peer, kind: int) -> None:
    """A frame of a kind that a server has no use for changes nothing."""
    peer.send(1, b"junk", kind)

    assert await works(peer, 1)


async def test_nothing_streams(peer: Peer, echo: Echo) -> None:
    """A request that stays open is refused; so is data, unless its call is being answered."""
    peer.send(1, request("echo"), flags=frames.REMOTE_OPEN)
    assert await peer.code(1) == Code.UNIMPLEMENTED
    peer.send(1, b"", Kind.DATA)
    assert await peer.code(1) == Code.INVALID_ARGUMENT
    peer.send(3, request("hold"))
    peer.send(3, b"more", Kind.DATA)
    assert await works(peer, 5)
    echo.release.set()

    assert await peer.code(3) == Code.OK


async def test_garbled_messages(peer: Peer) -> None:
    """What is no request, or no message of the method, is refused alone."""
    garbled = request_pb2.Request(service=SERVICE, method="echo", payload=b"\xff\xff")
    for stream, payload in (
        (1, b"\xff\xff\xff"),
        (3, b"\x0a\x01\xff"),  # a service that is no UTF-8
        (5, garbled.SerializeToString()),
    ):
        peer.send(stream, payload)
        assert await peer.code(stream) == Code.INVALID_ARGUMENT

    peer.send(7, b"")
    assert await peer.code(7) == Code.UNIMPLEMENTED
    assert await works(peer, 9)


async def test_too_long_a_request(peer: Peer) -> None:
    """A message beyond the limit is read past and refused, and the connection goes on."""
    size = frames.PAYLOAD_MAX + 1
    peer.raw(Header(size, 1, Kind.REQUEST).pack())
    for _ in range(4):
        peer.raw(b"\0" * (size // 4))
        await peer.writer.drain()
    peer.raw(b"\0" * (size % 4))

    assert await peer.code(1) == Code.RESOURCE_EXHAUSTED
    assert await works(peer, 3)


async def test_one_byte_at_a_time(peer: Peer) -> None:
    """A peer may be as slow as it likes."""
    for byte in frames.pack(1, Kind.REQUEST, request("echo", "slow")):
        peer.raw(bytes([byte]))
        await peer.writer.drain()
        await asyncio.sleep(0)

    assert await peer.code(1) == Code.OK


@pytest.mark.parametrize(
    "data",
    (
        b"",
        b"\0",
        frames.pack(1, Kind.REQUEST, request("echo"))[:-1],
        Header(frames.PAYLOAD_MAX, 1, 1).pack() + b"x",
        b"GET / HTTP/1.1\r\n\r\n",
    ),
)
async def test_peers_that_leave_halfway(
    server: Server, tmp_path: Path, data: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    """A peer that leaves within a frame leaves nothing behind, and no complaint."""
    async with await Peer.connect(tmp_path / "s") as peer:
        await until(lambda: server._serving)
        peer.raw(data)
    await until(lambda: not server._serving)

    assert [record for record in caplog.records if record.levelname != "DEBUG"] == []


async def test_a_peer_that_leaves_before_its_answers(server: Server, tmp_path: Path) -> None:
    """Refusals that are not read end the connection, not the server."""
    for _ in range(5):
        async with await Peer.connect(tmp_path / "s") as peer:
            for _ in range(2000):
                peer.send(2, b"")
            await peer.writer.drain()
    await until(lambda: not server._serving)
    async with await Peer.connect(tmp_path / "s") as peer:
        assert await works(peer, 1)


frame_like = st.builds(
    lambda header, payload: Header(len(payload), *header).pack() + payload,
    st.tuples(NUMBERS, st.integers(0, 5), st.integers(0, 7)),
    st.one_of(st.binary(max_size=64), st.just(request("echo")), st.just(request("hold"))),
)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.one_of(frame_like, st.binary(max_size=40)), max_size=8))
def test_any_bytes_at_all(blobs: list[bytes]) -> None:
    """Whatever one peer sends, the next one is served, and nothing is left of the first."""

    async def survive(path: Path) -> None:
        echo = Echo()
        async with serving(echo.services(), path) as server:
            async with await Peer.connect(path) as peer:
                peer.raw(b"".join(blobs))
            async with await Peer.connect(path) as peer:
                assert await works(peer, 1)
            await until(lambda: not server._serving)
            assert echo.held == echo.ended

    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(survive(Path(folder) / "s"))


# --- servers that misbehave ---------------------------------------------------------------------


Script = Callable[[Peer], Awaitable[None]]


@contextlib.asynccontextmanager
async def talking(path: Path, script: Script) -> AsyncIterator[Client]:
    """Connect a client to a server that follows a script, and hangs up when that ends."""

    async def serve() -> None:
        async with Peer(*await asyncio.open_unix_connection(sock=accepted)) as peer:
            await script(peer)

    with bind(path) as listener:
        client = await Client.connect(path)
        accepted, _ = listener.accept()
    serving = asyncio.create_task(serve())
    yield client
    await client.close()
    await serving


def good(value: str) -> bytes:
    """Make the payload of an answer."""
    payload = StringValue(value=value).SerializeToString()
    return request_pb2.Response(payload=payload).SerializeToString()


async def test_frames_that_no_process_waits_for(tmp_path: Path) -> None:
    """A client passes over answers to nothing, other kinds, and a second answer."""

    async def script(peer: Peer) -> None:
        await peer.frame()
        peer.send(9, good("other"), Kind.RESPONSE)
        peer.send(1, good("data"), Kind.DATA)
        peer.send(1, good("first"), Kind.RESPONSE)
        peer.send(1, good("second"), Kind.RESPONSE)
        await peer.frame()
        peer.send(3, good("third"), Kind.RESPONSE)
        await peer.gone()

    async with talking(tmp_path / "s", script) as client:
        assert await ask(client, "echo") == "first"
        assert await ask(client, "echo") == "third"


async def test_a_server_that_answers_no_more(tmp_path: Path) -> None:
    """A server that has said its last fails every call at once, though it still listens."""

    async def script(peer: Peer) -> None:
        await peer.frame()
        peer.writer.write_eof()
        await peer.gone()

    async with talking(tmp_path / "s", script) as client:
        for _ in range(2):
            with pytest.raises(Unavailable, match="was lost"):
                await ask(client, "echo")


async def test_answers_that_are_no_answers(tmp_path: Path) -> None:
    """A garbled, foreign or endless answer fails its call, and the next one is made."""
    unknown = request_pb2.Status(code=99, message="odd")
    missing = request_pb2.Status(code=Code.NOT_FOUND.value)
    missing.details.add(type_url="cryo.v1.ErrorInfo", value=b"\xff")
    size = frames.PAYLOAD_MAX + 1

    async def script(peer: Peer) -> None:
        await peer.frame()
        peer.send(1, b"\xff", Kind.RESPONSE)
        await peer.frame()
        response = request_pb2.Response(payload=b"\xff\xff")
        peer.send(3, response.SerializeToString(), Kind.RESPONSE)
        await peer.frame()
        peer.send(5, b"\0" * size, Kind.RESPONSE)
        for stream, status in ((7, unknown), (9, missing)):
            await peer.frame()
            response = request_pb2.Response(status=status)
            peer.send(stream, response.SerializeToString(), Kind.RESPONSE)
        await peer.frame()

    async with talking(tmp_path / "s", script) as client:
        for kind, text in (
            (CryoError, "response is garbled"),
            (CryoError, "StringValue is garbled"),
            (ResourceExhausted, f"{size} bytes"),
            (CryoError, "odd"),
            (NotFound, "not_found"),
            (Unavailable, "was lost"),
        ):
            with pytest.raises(kind, match=text):
                await ask(client, "echo")
