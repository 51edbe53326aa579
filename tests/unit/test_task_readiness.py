"""The checks of readiness: how they are written, and when they succeed."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence

import pytest

from shim.errors import CryoError, DeadlineExceeded, InvalidArgument, NotFound, Unavailable
from shim.runsc.port_forward import PortStream
from shim.runsc.run import Completed
from shim.task.readiness import (
    Check,
    CommandCheck,
    FileCheck,
    HttpCheck,
    NotReady,
    TcpCheck,
    parse,
    until_ready,
)


@pytest.mark.parametrize(
    ("text", "check"),
    (
        ("exec test -e /run/ready", CommandCheck(argv=("test", "-e", "/run/ready"))),
        ("exec sh -c 'a && b'", CommandCheck(argv=("sh", "-c", "a && b"))),
        ("http://:8000/health?full=1", HttpCheck(port=8000, path="/health?full=1")),
        ("http://:80", HttpCheck(port=80, path="/")),
        ("tcp://:6379", TcpCheck(port=6379)),
        ("file:/run/ready now", FileCheck(path="/run/ready now")),
        ("self", FileCheck(path="/run/cryo/checkpoint")),
    ),
)
def test_what_is_written(text: str, check: Check) -> None:
    """Each of the five kinds, with what belongs to it."""
    assert parse(text) == check


@pytest.mark.parametrize(
    "text",
    (
        "",
        "exec",
        "exec ",
        "exec 'a",
        "http://:0/",
        "http://:65536/",
        "http://host:80/",
        "http://:80/a b",
        "http://:80/a\r\nX: y",
        "https://:443/",
        "tcp://:1/x",
        "tcp://:80\n",
        "file:relative",
        "file:/a\0b",
        "Self",
        "exec " + "x" * 5000,
    ),
)
def test_what_is_no_check(text: str) -> None:
    """The error says what can be written; nothing in it reaches a header or a shell."""
    with pytest.raises(InvalidArgument, match="not a readiness check") as caught:
        parse(text)
    assert "tcp://:PORT" in caught.value.remedy


class Container:
    """A container whose programs and server answer as the test says."""

    def __init__(self, status: int = 0, answer: bytes = b"", files: Sequence[str] = ()) -> None:
        self.status = status
        self.answer = answer
        self.files = files
        self.asked = b""

    async def run(self, argv: Sequence[str], *, timeout_s: float) -> Completed:
        """Run a program, which says something in two lines."""
        if argv[0] == "missing":
            message = "the image has no program missing"
            raise NotFound(message)
        return Completed(status=self.status, stdout=b"", stderr=b"first\nnot yet\x1b\n")

    @contextlib.asynccontextmanager
    async def connect(self, port: int, *, timeout_s: float) -> AsyncIterator[PortStream]:
        """Connect to a server that gives its answer to one request."""
        if not self.answer:
            message = f"nothing listens on port {port}"
            raise Unavailable(message)

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            self.asked = await reader.readuntil(b"\r\n\r\n")
            writer.write(self.answer)
            writer.close()

        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        async with server:
            reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
            try:
                yield PortStream(reader, writer)
            finally:
                writer.close()
                await writer.wait_closed()

    async def has_file(self, path: str) -> bool:
        """Look among the files."""
        return path in self.files


async def answer(check: Check, container: Container) -> str:
    """Return why a container is not ready, empty if it is."""
    try:
        await check.check(container)
    except CryoError as error:
        return str(error)
    return ""


async def test_a_program() -> None:
    """It is ready with status 0; otherwise its last line says why, without control characters."""
    check = parse("exec probe")

    assert await answer(check, Container()) == ""
    assert await answer(check, Container(status=3)) == r"probe exited with 3: not yet\x1b"
    assert await answer(parse("exec missing"), Container()) == "the image has no program missing"


@pytest.mark.parametrize(
    ("status", "ready"), ((200, True), (302, True), (404, False), (503, False))
)
async def test_a_server(status: int, ready: bool) -> None:
    """2xx and 3xx are ready; the request names the path, and no other host."""
    container = Container(answer=f"HTTP/1.1 {status} X\r\nContent-Length: 0\r\n\r\n".encode())

    said = await answer(parse("http://:8000/health"), container)

    assert (said == "") is ready
    assert said in ("", f"GET /health on port 8000 was answered with {status}")
    assert container.asked.startswith(b"GET /health HTTP/1.1\r\nHost: localhost:8000\r\n")


async def test_what_is_no_server() -> None:
    """Nothing that listens, and something that speaks another protocol, are not ready."""
    assert "nothing listens" in await answer(parse("http://:1/"), Container())
    assert "nothing listens" in await answer(parse("tcp://:1"), Container())
    assert "not with an HTTP status" in await answer(
        parse("http://:1/"), Container(answer=b"SSH-2.0-x\r\n\r\n")
    )
    assert await answer(parse("tcp://:1"), Container(answer=b"SSH-2.0-x\r\n")) == ""


async def test_a_file_and_the_application() -> None:
    """A file is looked for; an application requests its checkpoint by one."""
    assert await answer(parse("file:/ready"), Container(files=["/ready"])) == ""
    assert await answer(parse("file:/ready"), Container()) == "/ready does not exist"
    asks = Container(files=["/run/cryo/checkpoint"])
    assert await answer(parse("self"), asks) == ""
    assert "does not exist" in await answer(parse("self"), Container())


async def test_it_is_asked_until_it_is_ready() -> None:
    """Each refusal is noted; an error that is none of ours is not taken for one."""
    noted: list[str] = []
    answers = iter((NotReady("a"), Unavailable("b"), None))

    async def attempt() -> None:
        if (error := next(answers)) is not None:
            raise error

    await until_ready(attempt, 0.001, lambda error: noted.append(str(error)))
    assert noted == ["a", "b"]

    async def broken() -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await until_ready(broken, 0.001, lambda error: noted.append(str(error)))


async def test_a_request_without_an_answer_is_not_repeated() -> None:
    """A sandbox queues each connection: there is only one while the check waits."""
    connections = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        await reader.read()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)

    class Silent(Container):
        @contextlib.asynccontextmanager
        async def connect(self, port: int, *, timeout_s: float) -> AsyncIterator[PortStream]:
            reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
            try:
                yield PortStream(reader, writer)
            finally:
                writer.close()
                await writer.wait_closed()

    check = parse("http://:8000/health")
    async with server:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.5):
                await until_ready(lambda: check.check(Silent()), 0.001, lambda _: None)
    assert connections == 1


async def test_a_pause_after_what_was_not_answered() -> None:
    """After a timeout the next attempt is not made at once."""
    attempts = 0

    async def attempt() -> None:
        nonlocal attempts
        attempts += 1
        message = "no answer"
        raise DeadlineExceeded(message)

    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.3):
            await until_ready(attempt, 0.001, lambda _: None)
    assert attempts == 1
