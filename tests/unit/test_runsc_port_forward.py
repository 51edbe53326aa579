"""Streams to a sandbox's ports, with a sentry that answers as the real one does."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from shim.errors import CryoError, IllegalState, InvalidArgument, Unavailable, Unimplemented
from shim.runsc.port_forward import open_stream

REFUSED = "creating netstack port forward connection: connecting endpoint: connection was refused"
NOT_STARTED = 'container "job+" not started'
NO_NETWORK = 'unsupported network type "none" for container "job+"'


class Sentry:
    """Serves one call, in a thread: answers it, and echoes what comes through the stream."""

    def __init__(self, path: Path, error: str = "") -> None:
        self.path = path
        self.request: dict[str, object] = {}
        self.stream_closed = False
        self._error = error
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen()
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        connection, _ = self._listener.accept()
        with connection:
            data, fds, _flags, _address = socket.recv_fds(connection, 1 << 16, 1)
            while not data.endswith(b"}}"):
                data += connection.recv(1 << 16)
            self.request = json.loads(data)
            answer = {"success": not self._error, "err": self._error}
            connection.sendall(json.dumps(answer).encode())
        stream = socket.socket(fileno=fds[0])
        while not self._error and (piece := stream.recv(1 << 16)):
            stream.sendall(piece)
        self.stream_closed = True  # before our end sees it closed
        stream.close()

    def close(self) -> None:
        """Wait until the call has been served."""
        self._thread.join(10.0)
        self._listener.close()
        assert not self._thread.is_alive()


@contextlib.contextmanager
def sentry(folder: Path, error: str = "") -> Iterator[Sentry]:
    """Give a sentry; in the end it must have closed its descriptor."""
    made = Sentry(folder / "runsc-job+.sock", error)
    try:
        yield made
    finally:
        made.close()


def open_sockets() -> set[str]:
    """List the sockets of this process."""
    found = set()
    for link in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):
            found.add(str(link.readlink()))
    return {name for name in found if name.startswith("socket:")}


@contextlib.asynccontextmanager
async def no_leak() -> AsyncIterator[None]:
    """Check that the block leaves no socket open, once the loop has closed its transports."""
    before = open_sockets()
    yield
    async with asyncio.timeout(5.0):
        while open_sockets() - before:  # noqa: ASYNC110 - the loop closes them
            await asyncio.sleep(0)


async def test_a_stream(tmp_path: Path) -> None:
    """The sentry gets the port, the container and a descriptor; both ends are closed after use."""
    async with no_leak():
        with sentry(tmp_path) as made:
            async with open_stream(made.path, "job+", 8000, timeout_s=5.0) as (reader, writer):
                writer.write(b"data")
                assert await reader.readexactly(4) == b"data"
            assert made.stream_closed

    assert made.request == {
        "method": "containerManager.PortForward",
        "arg": {"ContainerID": "job+", "Port": 8000},
    }


@pytest.mark.parametrize(
    ("answer", "kind"),
    (
        (REFUSED, Unavailable),
        (NOT_STARTED, IllegalState),
        ('failed to get threadgroup from "job+": container not found', IllegalState),
        (NO_NETWORK, Unimplemented),
        ("something else", Unavailable),
    ),
)
async def test_an_error_of_the_sentry(tmp_path: Path, answer: str, kind: type[CryoError]) -> None:
    """It is typed by its cause, and leaves no descriptor."""
    async with no_leak():
        with sentry(tmp_path, answer) as made, pytest.raises(kind):
            async with open_stream(made.path, "job+", 80, timeout_s=5.0):
                pytest.fail("there is no stream")


@pytest.mark.parametrize("said", ("no route to host", "network is unreachable"))
async def test_a_sandbox_without_a_loopback(tmp_path: Path, said: str) -> None:
    """Its network namespace had lo down when it was created; the error says how to set it up."""
    answer = f"creating netstack port forward connection: connecting endpoint: {said}"
    with sentry(tmp_path, answer) as made, pytest.raises(Unavailable, match="loopback") as caught:
        async with open_stream(made.path, "job+", 80, timeout_s=5.0):
            pytest.fail("there is no stream")
    assert "link set lo up" in caught.value.remedy


async def test_no_sentry(tmp_path: Path) -> None:
    """A sandbox that is gone is unavailable."""
    with pytest.raises(Unavailable):
        async with open_stream(tmp_path / "none.sock", "job+", 80, timeout_s=5.0):
            pytest.fail("there is no stream")


@pytest.mark.parametrize("port", (0, -1, 65536))
async def test_no_port(tmp_path: Path, port: int) -> None:
    """The sentry is not asked."""
    with pytest.raises(InvalidArgument, match=f"{port} is not a TCP port"):
        async with open_stream(tmp_path / "none.sock", "job+", port, timeout_s=5.0):
            pytest.fail("there is no stream")


async def test_a_sentry_that_does_not_answer(tmp_path: Path) -> None:
    """The deadline ends the attempt, and both ends are closed."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(tmp_path / "sock"))
    listener.listen()
    with listener:
        async with no_leak():
            with pytest.raises(Unavailable, match="does not answer"):
                async with open_stream(tmp_path / "sock", "job+", 80, timeout_s=0.05):
                    pytest.fail("there is no stream")


async def test_a_failure_while_a_stream_is_open(tmp_path: Path) -> None:
    """The stream is closed as after success."""
    with sentry(tmp_path) as made:
        with pytest.raises(KeyError):
            async with open_stream(made.path, "job+", 8000, timeout_s=5.0):
                raise KeyError
        assert made.stream_closed
