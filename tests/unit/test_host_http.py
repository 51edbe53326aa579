"""One HTTP request over a stream: what is read of an answer, and what an answer cannot do."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator

import pytest

from shim.errors import DeadlineExceeded, Unavailable
from shim.host.http import BODY_LIMIT_BYTES, Response, request


@contextlib.asynccontextmanager
async def peer(
    answer: bytes, *, ends: bool = True
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter, socket.socket]]:
    """Give a stream whose other end has already sent an answer; and that other end."""
    ours, theirs = socket.socketpair()
    theirs.setblocking(False)
    reader, writer = await asyncio.open_unix_connection(sock=ours)
    loop = asyncio.get_running_loop()
    sending = asyncio.ensure_future(loop.sock_sendall(theirs, answer))

    def sent(_sending: asyncio.Future[None]) -> None:
        if ends and not _sending.cancelled():
            theirs.shutdown(socket.SHUT_WR)

    sending.add_done_callback(sent)
    try:
        yield reader, writer, theirs
    finally:
        sending.cancel()
        writer.transport.abort()
        theirs.close()


async def get(answer: bytes, *, ends: bool = True) -> Response:
    """Return what is read of an answer."""
    async with peer(answer, ends=ends) as (reader, writer, _theirs):
        return await request(reader, writer, "GET", "/", host="localhost", timeout_s=5.0)


async def sent(method: str, json: bytes = b"") -> bytes:
    """Return what is sent for a request."""
    async with peer(b"HTTP/1.1 204 No Content\r\n\r\n") as (reader, writer, theirs):
        await request(
            reader, writer, method, "/sleep?level=1", host="x:80", timeout_s=5.0, json=json
        )
        return theirs.recv(1000)


async def test_what_is_sent() -> None:
    """A request has a host, and ends the connection; a POST has a body, if only an empty one."""
    head = b" /sleep?level=1 HTTP/1.1\r\nHost: x:80\r\nConnection: close\r\n"
    assert await sent("GET") == b"GET" + head + b"\r\n"
    assert await sent("POST") == b"POST" + head + b"Content-Length: 0\r\n\r\n"
    said = b"Content-Type: application/json\r\nContent-Length: 2\r\n\r\n{}"
    assert await sent("POST", b"{}") == b"POST" + head + said


@pytest.mark.parametrize(
    ("answer", "status", "body"),
    (
        (b"HTTP/1.0 200 OK\r\n\r\nto the end", 200, b"to the end"),
        (b"HTTP/1.1 500 X\r\nContent-Length: 3\r\n\r\nabcdef", 500, b"abc"),
        (b"HTTP/1.1 200\r\ncontent-LENGTH:0\r\n\r\n", 200, b""),
        (b"HTTP/1.1 204 No\r\nContent-Length: 9\r\n\r\n", 204, b""),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", 200, b"Wikipedia"),
        (b"HTTP/1.1 103 Hints\r\nLink: x\r\n\r\nHTTP/1.1 201 Y\r\n\r\n", 201, b""),
    ),
)
async def test_an_answer(answer: bytes, status: int, body: bytes) -> None:
    """Its body ends by its length, its last chunk, or the end of the stream."""
    chunks = b"4\r\nWiki\r\n5;x=1\r\npedia\r\n0\r\n\r\n" if b"chunked" in answer else b""
    assert await get(answer + chunks) == Response(status=status, body=body)


async def test_an_answer_by_length_does_not_need_the_end_of_the_stream() -> None:
    """A server may keep the connection."""
    whole = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
    assert (await get(whole, ends=False)).body == b"ok"


@pytest.mark.parametrize(
    "head",
    (
        b"HTTP/1.1 200 OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999999\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nfffffff\r\n",
    ),
)
async def test_a_flood(head: bytes) -> None:
    """No more than the limit is read of a body, whatever it says of its length."""
    whole = head + bytes(BODY_LIMIT_BYTES + 1000)
    assert len((await get(whole, ends=False)).body) == BODY_LIMIT_BYTES


@pytest.mark.parametrize(
    ("answer", "why"),
    (
        (b"", "incomplete"),
        (b"HTTP/1.1 200", "incomplete"),
        (b"HTTP/1.1 200 OK\r\nA: b\r\n", "incomplete"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nab", "incomplete"),
        (b"SSH-2.0-OpenSSH_9\r\n", "not with an HTTP status"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n", "content length"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", "chunk"),
        (b"HTTP/1.1 200 OK\r\n" + b"A: b\r\n" * 20000, "headers"),
        (b"HTTP/1.1 200 OK\r\nA: " + b"b" * 10000 + b"\r\n\r\n", "a line of the answer"),
        (b"HTTP/1.1 200 OK\r\nA: " + b"b" * 200000, "limit"),
    ),
)
async def test_no_http(answer: bytes, why: str) -> None:
    """It is an error that says what came."""
    with pytest.raises(Unavailable, match=f"GET /: .*{why}"):
        await get(answer)


async def test_no_answer_in_time() -> None:
    """The deadline is for the whole answer."""
    async with peer(b"HTTP/1.1 200 OK\r\n", ends=False) as (reader, writer, _theirs):
        with pytest.raises(DeadlineExceeded, match=r"no answer in 0\.01 s"):
            await request(reader, writer, "GET", "/", host="x", timeout_s=0.01)
