"""Calls over ttrpc: many at a time, with deadlines, metadata, errors, and an end."""

from __future__ import annotations

import asyncio
import logging
import os
import resource
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from shim.errors import (
    CryoError,
    DeadlineExceeded,
    InvalidArgument,
    NotFound,
    ResourceExhausted,
    Unavailable,
    Unimplemented,
)
from shim.service.code import Code
from shim.service.ttrpc import frame
from shim.service.ttrpc.client import Client
from shim.service.ttrpc.limits import Limits
from shim.service.ttrpc.server import Server
from tests.wire.fakes import every_error
from tests.wire.helpers_ttrpc import SERVICE, Echo, Peer, ask, bind, request, serving, until


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Give a socket's path."""
    return tmp_path / "s"


@pytest.fixture
async def echo() -> Echo:
    """Make the service."""
    return Echo()


@pytest.fixture
async def server(echo: Echo, path: Path) -> AsyncIterator[Server]:
    """Serve it."""
    async with serving(echo.services(), path) as server:
        yield server


@pytest.fixture
async def client(server: Server, path: Path) -> AsyncIterator[Client]:
    """Connect to it."""
    client = await Client.connect(path)
    yield client
    await client.close()


async def test_a_call_is_answered(client: Client) -> None:
    """A request's message comes back, through unix:// as through a path."""
    assert await ask(client, "echo", "héllo") == "héllo"
    assert await ask(client, "echo", "") == ""


async def test_metadata_arrives(client: Client) -> None:
    """What travels beside a request reaches the method, its keys in lower case."""
    from google.protobuf.wrappers_pb2 import StringValue

    answer = await client.call(
        SERVICE,
        "space",
        StringValue(value="containerd-namespace-ttrpc"),
        StringValue,
        metadata={"Containerd-Namespace-ttrpc": "k8s.io"},
    )

    assert answer.value == "k8s.io"


async def test_answers_overtake_each_other(client: Client, echo: Echo) -> None:
    """A call that waits holds up no other, and each gets its own answer."""
    waiting = [asyncio.create_task(ask(client, "hold", str(i))) for i in range(100)]
    await until(lambda: echo.held == 100)
    values = [str(i) for i in range(200)]

    assert await asyncio.gather(*(ask(client, "echo", value) for value in values)) == values
    echo.release.set()
    assert await asyncio.gather(*waiting) == [str(i) for i in range(100)]


@pytest.mark.parametrize("error", every_error(), ids=lambda error: type(error).__name__)
async def test_an_error_comes_back_whole(client: Client, echo: Echo, error: CryoError) -> None:
    """To a client of ours an error is the same one again: class, remedy and all."""
    echo.error = error
    with pytest.raises(CryoError) as caught:
        await ask(client, "fail")

    assert type(caught.value) is type(error)
    assert vars(caught.value) == vars(error)


async def test_strangers_get_code_and_text(server: Server, echo: Echo, path: Path) -> None:
    """To others a status says what happened and what to do, and has no detail to stumble on."""
    echo.error = Unavailable("gone", remedy="come back")
    async with await Peer.connect(path) as peer:
        peer.send(1, request("fail"))
        _, response = await peer.answer()

    assert response.status.code == Code.UNAVAILABLE
    assert response.status.message == "gone; come back"
    assert not response.status.details
    assert not response.payload


async def test_success_has_a_status(server: Server, path: Path) -> None:
    """An answer carries an empty status, because early clients fail without one."""
    async with await Peer.connect(path) as peer:
        peer.send(1, request("echo", "a"))
        _, response = await peer.answer()

    assert response.HasField("status")
    assert response.status.code == Code.OK


async def test_a_bug_is_logged_and_not_shown(
    client: Client, echo: Echo, caplog: pytest.LogCaptureFixture
) -> None:
    """An unexpected exception is INTERNAL with a plain message; the log has the rest."""
    caplog.set_level(logging.ERROR)
    for bug in (KeyError("secret"), TimeoutError("secret"), OSError("secret")):
        echo.error = bug
        with pytest.raises(CryoError, match=f"internal error: {type(bug).__name__}") as caught:
            await ask(client, "fail")

        assert "secret" not in str(caught.value)
    assert "secret" in caplog.text


async def test_an_error_of_any_bytes_is_reported(client: Client, echo: Echo) -> None:
    """An error with a path that is not UTF-8 reaches the caller."""
    echo.error = InvalidArgument(os.fsdecode(b"/a\xff"), remedy=os.fsdecode(b"\xff"))

    with pytest.raises(InvalidArgument, match=r"/a\\udcff"):
        await ask(client, "fail")


async def test_a_cancelled_operation_is_reported(server: Server, echo: Echo, path: Path) -> None:
    """A method that was cancelled from within answers CANCELLED."""
    echo.error = asyncio.CancelledError()
    async with await Peer.connect(path) as peer:
        peer.send(1, request("fail"))

        assert await peer.code(1) == Code.CANCELLED


@pytest.mark.parametrize(("service", "method"), (("x.Y", "echo"), (SERVICE, "nope"), ("", "")))
async def test_what_is_not_there(client: Client, service: str, method: str) -> None:
    """An unknown service or method is UNIMPLEMENTED."""
    from google.protobuf.empty_pb2 import Empty

    with pytest.raises(Unimplemented):
        await client.call(service, method, Empty(), Empty)


# --- deadlines and cancellation -----------------------------------------------------------------


@pytest.mark.parametrize("timeout_ns", (20_000_000, 1, -5))
async def test_a_deadline_ends_a_call(
    server: Server, echo: Echo, path: Path, timeout_ns: int
) -> None:
    """A method that is late is cancelled and awaited, and the caller gets an error."""
    echo.undo_s = 0.05
    async with await Peer.connect(path) as peer:
        peer.send(1, request("hold", timeout_nano=timeout_ns))
        code = await peer.code(1)

    assert code == Code.DEADLINE_EXCEEDED
    assert echo.ended == echo.held


async def test_a_distant_deadline_does_no_harm(server: Server, path: Path) -> None:
    """The longest timeout that can be sent is as good as none."""
    async with await Peer.connect(path) as peer:
        peer.send(1, request("echo", timeout_nano=(1 << 63) - 1))

        assert await peer.code(1) == Code.OK


async def test_a_client_waits_no_longer(client: Client, echo: Echo) -> None:
    """A client gives up on its own, and the connection goes on; the late response is dropped."""
    for _ in range(3):
        with pytest.raises(DeadlineExceeded, match=r"0\.02 s"):
            await ask(client, "hold", timeout_s=0.02)
    cancelled = asyncio.create_task(ask(client, "hold"))
    await until(lambda: echo.held == 4)
    cancelled.cancel()
    with pytest.raises(asyncio.CancelledError):
        await cancelled
    echo.release.set()

    assert await ask(client, "echo", "on") == "on"
    assert not client.closed


async def test_calls_end_with_their_peer(server: Server, echo: Echo, path: Path) -> None:
    """When a peer leaves, its calls are cancelled, each seen out; those of others go on."""
    echo.undo_s = 0.05
    stays, leaves = await Peer.connect(path), await Peer.connect(path)
    stays.send(1, request("hold", "a"))
    for stream in range(1, 21, 2):
        leaves.send(stream, request("hold"))
    await until(lambda: echo.held == 11)
    await leaves.leave()
    await until(lambda: echo.ended == 10)
    echo.release.set()

    assert await stays.code(1) == Code.OK
    await stays.leave()


async def test_a_call_that_completes_without_its_peer(echo: Echo, path: Path) -> None:
    """It is not cancelled, also if it has not begun; the connection counts until its end."""
    idle = asyncio.Event()
    server = Server(echo.services(), on_idle=idle.set)
    server.serve(bind(path))
    peer = await Peer.connect(path)
    peer.send(1, request("hold"))
    peer.send(3, request("finish"))
    await peer.leave()
    await until(lambda: echo.held)
    await until(lambda: echo.held - echo.ended == 1)
    assert not idle.is_set()

    echo.release.set()

    await idle.wait()
    assert echo.held == echo.ended
    await server.close()


async def test_a_lost_connection_fails_its_calls(echo: Echo, path: Path) -> None:
    """Calls under way fail as unavailable when the server goes, and so do later ones."""
    async with serving(echo.services(), path):
        client = await Client.connect(f"unix://{path}")
        calls = [asyncio.create_task(ask(client, "hold")) for _ in range(3)]
        await until(lambda: echo.held == 3)
    for call in calls:
        with pytest.raises(Unavailable, match="was lost"):
            await call
    with pytest.raises(Unavailable, match="was lost"):
        await ask(client, "echo")

    assert client.closed
    await client.close()
    with pytest.raises(Unavailable, match="No such file"):
        await Client.connect(path)


async def test_a_call_that_crashes_ends_its_connection(
    client: Client, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Its caller has no answer to wait for, and sees the connection end; the log has the crash."""

    async def crash(*_: object) -> bytes:
        message = "a bug"
        raise ZeroDivisionError(message)

    monkeypatch.setattr("shim.service.ttrpc.connection.Connection._answer", crash)

    with pytest.raises(Unavailable, match="was lost"):
        await asyncio.wait_for(ask(client, "echo"), 60)
    assert "ZeroDivisionError" in caplog.text


async def test_closing_a_client_fails_its_calls(client: Client, echo: Echo) -> None:
    """A client that is closed leaves none of its calls hanging."""
    call = asyncio.create_task(ask(client, "hold"))
    await until(lambda: echo.held == 1)
    await client.close()

    with pytest.raises(Unavailable):
        await call
    await until(lambda: echo.ended == 1)


async def test_a_busy_listener_is_no_connection(path: Path) -> None:
    """While the server does not accept, a client waits, and fails with a timeout."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen(0)
    first = await Client.connect(path)
    with pytest.raises(Unavailable, match="timed out"):
        await Client.connect(path, timeout_s=0.1)
    waiting = asyncio.create_task(Client.connect(path))
    accepted = [listener.accept()[0]]
    second = await waiting
    accepted.append(listener.accept()[0])
    listener.close()
    for client, connected in zip((first, second), accepted, strict=True):
        await client.close()
        connected.close()


async def test_stream_numbers_end(client: Client) -> None:
    """A connection that has used up its stream numbers says that it must be made again."""
    client._stream = frame.STREAM_MAX - 2

    assert await ask(client, "echo", "last") == "last"
    with pytest.raises(Unavailable, match="stream numbers"):
        await ask(client, "echo")


# --- size ---------------------------------------------------------------------------------------


async def test_long_messages(client: Client) -> None:
    """Messages up to the limit pass, either way; longer ones fail alone."""
    nearly = frame.PAYLOAD_MAX - 200

    assert len(await ask(client, "echo", "x" * nearly)) == nearly
    with pytest.raises(ResourceExhausted, match="request"):
        await ask(client, "echo", "x" * frame.PAYLOAD_MAX)
    with pytest.raises(ResourceExhausted, match="answer"):
        await ask(client, "long", str(frame.PAYLOAD_MAX))
    assert await ask(client, "echo", "on") == "on"


async def test_too_long_an_answer(server: Server, path: Path) -> None:
    """A response beyond the limit is not sent: its caller gets an error; the connection stays."""
    async with await Peer.connect(path) as peer:
        peer.send(1, request("long", str(frame.PAYLOAD_MAX)))
        assert await peer.code(1) == Code.RESOURCE_EXHAUSTED
        peer.send(3, request("echo"))
        assert await peer.code(3) == Code.OK


async def test_a_peer_that_does_not_read(server: Server, echo: Echo, path: Path) -> None:
    """Answers wait for a slow peer in calls, not in a buffer; others are served meanwhile."""
    slow, other = await Peer.connect(path), await Peer.connect(path)
    for stream in range(1, 81, 2):
        slow.send(stream, request("long", str(1 << 20)))
    await until(lambda: any(one and len(one._calls) == 40 for one in server._serving.values()))
    connection = next(one for one in server._serving.values() if one and one._calls)
    other.send(1, request("echo"))
    assert await other.code(1) == Code.OK
    buffered = connection._channel._writer.transport.get_write_buffer_size()

    assert buffered < 3 << 20
    assert len(connection._calls) > 30
    answers = [await slow.answer() for _ in range(40)]
    assert sorted(stream for stream, _ in answers) == list(range(1, 81, 2))
    await slow.leave()
    await other.leave()


# --- limits -------------------------------------------------------------------------------------


async def test_too_many_calls(echo: Echo, path: Path) -> None:
    """Beyond the limit a call is refused at once, so that a Kill never queues behind Waits."""
    async with serving(echo.services(), path, Limits(calls=2)):
        client = await Client.connect(path)
        held = [asyncio.create_task(ask(client, "hold", "a")) for _ in range(2)]
        await until(lambda: echo.held == 2)
        with pytest.raises(ResourceExhausted, match="2 calls are under way"):
            await ask(client, "echo")
        echo.release.set()

        assert await asyncio.gather(*held) == ["a", "a"]
        assert await ask(client, "echo", "b") == "b"
        await client.close()


async def test_too_many_connections(echo: Echo, path: Path) -> None:
    """Beyond the limit a connection is closed at once; one that leaves makes room."""
    async with serving(echo.services(), path, Limits(connections=2)) as server:
        peers = [await Peer.connect(path) for _ in range(2)]
        async with await Peer.connect(path) as refused:
            assert await refused.gone()
        await peers[0].leave()
        await until(lambda: len(server._serving) == 1)
        peers[0] = await Peer.connect(path)
        for peer in peers:
            peer.send(1, request("echo"))
            assert await peer.code(1) == Code.OK
            await peer.leave()


async def test_out_of_descriptors(server: Server, path: Path) -> None:
    """A server that cannot accept for want of descriptors does so once it can."""
    waiting = socket.socket(socket.AF_UNIX)
    waiting.setblocking(False)
    _, hard = limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest = os.dup(0)
    os.close(lowest)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest, hard))
    try:
        waiting.connect(str(path))
        await until(lambda: not any_reader(server))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    async with Peer(*await asyncio.open_unix_connection(sock=waiting)) as peer:
        peer.send(1, request("echo"))

        assert await peer.code(1) == Code.OK


def any_reader(server: Server) -> bool:
    """Return whether the loop watches a listener of the server."""
    loop = asyncio.get_running_loop()
    selector: object = getattr(loop, "_selector")  # noqa: B009  # typeshed does not know it
    keys: dict[int, object] = selector.get_map()  # type: ignore[attr-defined]
    return any(listener.fileno() in keys for listener in server._listeners)


# --- listening and closing ----------------------------------------------------------------------


async def test_a_socket_that_was_bound_before(echo: Echo, path: Path) -> None:
    """A peer that connects before the server serves is served."""
    listener = bind(path)
    peer = await Peer.connect(path)
    peer.send(1, request("echo"))
    server = Server(echo.services())
    server.serve(listener)

    assert await peer.code(1) == Code.OK
    await peer.leave()
    await server.close()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can speak as somebody else")
async def test_other_users_are_refused(echo: Echo) -> None:
    """A peer that is neither root nor our own user is hung up on, even where it can connect."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(b"")  # Linux chooses an abstract name, which anybody may connect to
    listener.listen(1)
    server = Server(echo.services())
    name = listener.getsockname().decode().removeprefix("\0")
    server.serve(listener)
    code = (
        "import os, socket, sys; os.setuid(65534); s = socket.socket(socket.AF_UNIX);"
        "s.connect(chr(0) + sys.argv[1]); s.settimeout(10); print(s.recv(1))"
    )
    done = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-c", code, name],
        check=False,
        capture_output=True,
        text=True,
        timeout=120,
    )

    assert done.stdout == "b''\n"
    await server.close()


async def test_closing_lets_calls_end(echo: Echo, path: Path) -> None:
    """Within the grace a call ends and is answered; nothing new is begun meanwhile."""
    server = Server(echo.services())
    server.serve(bind(path))
    client = await Client.connect(path)
    call = asyncio.create_task(ask(client, "hold", "a"))
    await until(lambda: echo.held == 1)
    closing = asyncio.create_task(server.close(grace_s=10))
    await asyncio.sleep(0)
    with pytest.raises(Unavailable):
        await Client.connect(path)
    with pytest.raises(Unavailable, match="stopping"):
        await ask(client, "echo")
    echo.release.set()

    assert await call == "a"
    await closing
    await until(lambda: client.closed)
    await client.close()


async def test_closing_refuses_as_its_owner_says(echo: Echo, path: Path) -> None:
    """New calls fail with the error of the owner: a shim's tasks are gone, not unavailable."""
    server = Server(echo.services())
    server.serve(bind(path))
    client = await Client.connect(path)
    call = asyncio.create_task(ask(client, "hold", "a"))
    await until(lambda: echo.held == 1)
    closing = asyncio.create_task(server.close(10, NotFound("the task has been deleted")))
    await asyncio.sleep(0)
    for _ in range(2):
        with pytest.raises(NotFound, match="deleted"):
            await ask(client, "echo")
    echo.release.set()

    assert await call == "a"
    await closing
    await client.close()


async def test_closing_cancels_what_is_left(echo: Echo, path: Path) -> None:
    """After the grace calls are cancelled, and closing is over when each has been undone."""
    echo.undo_s = 0.1
    server = Server(echo.services())
    server.serve(bind(path))
    client = await Client.connect(path)
    calls = [asyncio.create_task(ask(client, "hold")) for _ in range(5)]
    await until(lambda: echo.held == 5)
    await server.close(grace_s=0.05)

    assert echo.ended == 5
    for call in calls:
        with pytest.raises(Unavailable):
            await call
    await client.close()


async def test_closing_does_not_wait_for_a_peer_that_does_not_read(echo: Echo, path: Path) -> None:
    """A peer that takes no answers holds up the end for a moment only, and then is cut off."""
    server = Server(echo.services())
    server.serve(bind(path))
    async with await Peer.connect(path) as peer:
        for stream in range(1, 11, 2):
            peer.send(stream, request("long", str(1 << 20)))
        await until(lambda: any(one and one._calls for one in server._serving.values()))
        async with asyncio.timeout(60):
            await server.close(grace_s=0.1)

        assert len(await peer.reader.read(-1)) < 1 << 20
