"""Calls without progress need no gRPC: over ttrpc, on a socket beside the sidecar's own."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
from pathlib import Path

import click
import pytest

from shim.client import AsyncClient, Client
from shim.client import light as light_clients
from shim.entry.cli import app
from shim.entry.cli.groups import ALIASES, Group
from shim.errors import CryoError, DeadlineExceeded, NotFound, Unavailable
from shim.model import Progress, RestoreOptions
from shim.service import address as addresses
from shim.service.server import Server
from shim.service.ttrpc import frame
from shim.service.ttrpc.frame import Kind
from tests.wire.conftest import Sidecar

# Prints what a command has loaded, after its own output.
_LOADED = """
import sys
from shim.entry.cli import main
try:
    main(sys.argv[1:])
except SystemExit as end:
    assert not end.code, end.code
print("LOADED", *sys.modules)
"""

# What a list of tasks needs nothing of: each takes milliseconds to load.
_NOT_NEEDED = {
    *("rich", "grpc", "asyncio", "concurrent.futures", "subprocess", "tempfile", "shutil"),
    *("pathlib", "dataclasses", "json", "logging", "email", "importlib.metadata", "secrets"),
    *("blake3", "cryptography", "yaml", "tomllib", "shim.config", "shim.image", "shim.task"),
    *("shim.entry.cli.tasks", "shim.entry.cli.params", "shim.service.task_operations"),
}


def loaded(*argv: str) -> set[str]:
    """Run a command in a process of its own; return which modules it has loaded."""
    done = subprocess.run(
        [sys.executable, "-c", _LOADED, *argv],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    _, _, names = done.stdout.rpartition("LOADED")
    return set(names.split())


def light_socket(address: str) -> Path:
    """Return the path of the socket for light clients."""
    path = addresses.light_path(addresses.parse(address))
    assert path is not None
    return Path(path)


@pytest.mark.parametrize("command", (("ls",), ("ls", "-q"), ("list",)))
def test_a_list_of_tasks_loads_no_grpc(sidecar: Sidecar, command: tuple[str, ...]) -> None:
    """Nor an event loop, the settings of the sidecar, or what is only for other commands."""
    with Client(sidecar.address) as client:
        client.create("one", "/b")

    assert loaded("-a", sidecar.address, "tasks", *command) & _NOT_NEEDED == set()


@pytest.mark.parametrize(
    "command",
    (
        ("tasks", "ps", "one"),
        ("tasks", "kill", "one"),
        ("checkpoints", "ls"),
        ("warm", "ls"),
        ("info",),
    ),
)
def test_other_calls_without_progress_load_no_grpc(
    sidecar: Sidecar, command: tuple[str, ...]
) -> None:
    """Whatever else they need."""
    with Client(sidecar.address) as client:
        client.create("one", "/b")

    assert "grpc" not in loaded("-a", sidecar.address, *command)


def test_a_long_call_without_progress_needs_no_grpc(sidecar: Sidecar) -> None:
    """Its result is that of a call with progress."""
    options = RestoreOptions(image_path="/i")
    with Client(sidecar.address) as client:
        quiet = client.restore("one", options)
        assert client._made is None
        updates: list[Progress] = []
        assert client.restore("two", options, updates.append) == quiet
        assert client._made is not None

    assert updates


def test_a_long_call_that_failed_is_not_cancelled(
    sidecar: Sidecar, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has ended, so that there is nothing to roll back; its error is that of the sidecar."""
    sidecar.core.fail = NotFound("there is none", remedy="make one")
    cancelled: list[object] = []
    with Client(sidecar.address) as client:
        monkeypatch.setattr(client, "_roll_back", lambda *given: cancelled.append(given))
        with pytest.raises(NotFound, match="there is none") as caught:
            client.checkpoint("one")

    assert caught.value.remedy == "make one"
    assert cancelled == []


def test_closing_a_client_rolls_back_a_long_call(sidecar: Sidecar) -> None:
    """As the loss of its connection does."""
    sidecar.core.hold = True
    client = Client(sidecar.address)
    failed: list[Exception] = []

    def save() -> None:
        try:
            client.checkpoint("one")
        except CryoError as error:
            failed.append(error)

    thread = threading.Thread(target=save)
    thread.start()
    sidecar.wait_for(sidecar.core.holding)
    client.close()
    thread.join(60)

    sidecar.wait_for(sidecar.core.rolled_back)
    assert len(failed) == 1


def test_an_older_sidecar_is_called_by_grpc(sidecar: Sidecar) -> None:
    """One that serves no socket for light clients, or has left a dead one behind."""
    path = light_socket(sidecar.address)
    with Client(sidecar.address) as client:
        path.unlink()
        client.create("one", "/b")
        with socket.socket(socket.AF_UNIX) as dead:
            dead.bind(str(path))
        assert [view.id for view in client.list()] == ["one"]


def test_both_ways_raise_the_same_errors(sidecar: Sidecar) -> None:
    """An error that the server raises has its class, message and remedy."""
    with Client(sidecar.address) as client:
        with pytest.raises(NotFound) as by_ttrpc:
            client.state("none")
        light_socket(sidecar.address).unlink()
        with pytest.raises(NotFound) as by_grpc:
            client.state("none")

    assert str(by_ttrpc.value) == str(by_grpc.value)
    assert by_ttrpc.value.remedy == by_grpc.value.remedy


def test_a_namespace_is_sent(sidecar: Sidecar) -> None:
    """A task of one namespace is not one of another."""
    with Client(sidecar.address, "other") as client:
        client.create("one", "/b")
    with Client(sidecar.address) as client:
        assert client.list() == []
        with pytest.raises(NotFound):
            client.state("one")


async def test_the_socket_has_the_mode_of_the_other(server: Server, address: str) -> None:
    """A user who may call by gRPC may call without it, and no other."""
    modes = {
        path.stat().st_mode for path in (Path(addresses.parse(address)), light_socket(address))
    }

    assert len(modes) == 1
    assert modes.pop() & 0o777 == 0o600


async def test_a_long_address_has_no_second_socket(tmp_path: Path) -> None:
    """A path that is too long with the ending is served and called by gRPC alone."""
    path = tmp_path / ("s" * (105 - len(str(tmp_path))))
    with Sidecar(f"unix://{path}") as sidecar, Client(sidecar.address) as client:
        assert addresses.light_path(str(path)) is None
        assert client.list() == []


class Peer:
    """A server that sends what a test says, once."""

    def __init__(self, path: Path, answer: bytes, *, hang: bool = False) -> None:
        self._listener = socket.socket(socket.AF_UNIX)
        path.parent.mkdir(parents=True, exist_ok=True)
        self._listener.bind(str(path))
        self._listener.listen()
        self._answer = answer
        self.may_end = threading.Event()
        if not hang:
            self.may_end.set()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        connected, _ = self._listener.accept()
        with connected:
            connected.recv(1 << 16)
            connected.sendall(self._answer)
            self.may_end.wait(60)

    def close(self) -> None:
        """Wait for the end of the connection."""
        self.may_end.set()
        self._thread.join(60)
        self._listener.close()


@pytest.mark.parametrize(
    ("answer", "kind", "said"),
    (
        (b"", Unavailable, "lost"),
        (b"\0\0\0", Unavailable, "lost"),
        (frame.pack(1, Kind.RESPONSE, b"")[:-1] + b"\0", CryoError, ""),
        (frame.pack(3, Kind.RESPONSE, b""), CryoError, "stream 3"),
        (frame.pack(1, Kind.DATA, b""), CryoError, "kind 3"),
        (frame.pack(1, Kind.RESPONSE, b"\xff"), CryoError, "garbled"),
        (frame.Header(1 << 30, 1, Kind.RESPONSE).pack(), CryoError, "longer than"),
    ),
)
def test_a_server_that_is_none_of_ours(
    address: str, answer: bytes, kind: type[CryoError], said: str
) -> None:
    """Whatever it sends is one of our errors, or an empty answer."""
    peer = Peer(light_socket(address), answer)
    try:
        with Client(address) as client:
            if said:
                with pytest.raises(kind, match=said):
                    client.list()
            else:
                assert client.list() == []
    finally:
        peer.close()


def test_a_server_that_hangs(address: str) -> None:
    """The call ends at its deadline, and says how long that was."""
    peer = Peer(light_socket(address), b"\0", hang=True)
    try:
        with (
            Client(address, timeout_s=0.2) as client,
            pytest.raises(DeadlineExceeded, match=r"0\.2 s"),
        ):
            client.list()
    finally:
        peer.close()


def test_closing_a_client_ends_its_calls(sidecar: Sidecar) -> None:
    """Also those of other threads, and the sidecar ends them too."""
    client = Client(sidecar.address)
    client.create("one", "/b")
    failed: list[Exception] = []

    def wait() -> None:
        try:
            client.wait("one")
        except Unavailable as error:
            failed.append(error)

    thread = threading.Thread(target=wait)
    thread.start()
    sidecar.wait_for(sidecar.core.waiting)
    client.close()
    thread.join(60)

    assert len(failed) == 1
    sidecar.wait_for(sidecar.core.wait_cancelled)


async def test_the_socket_is_gone_after_a_stop(address: str) -> None:
    """And the next sidecar replaces one that a killed sidecar has left."""
    for _ in range(2):
        with Sidecar(address):
            assert light_socket(address).is_socket()
            async with AsyncClient(address) as client:
                await client.list()
        assert not light_socket(address).exists()
        with socket.socket(socket.AF_UNIX) as dead:
            dead.bind(str(light_socket(address)))


def test_a_long_request_is_sent_whole() -> None:
    """A frame is sent whole, also one that does not fit into the socket at once."""
    here, there = socket.socketpair()
    data = b"x" * (4 << 20)
    received: list[int] = []

    def read() -> None:
        while part := there.recv(1 << 16):
            received.append(len(part))

    thread = threading.Thread(target=read)
    thread.start()
    with here:
        light_clients.LightConnection(here, 60.0)._send(data)
    thread.join(60)
    there.close()

    assert sum(received) == len(data)


def test_no_command_has_the_name_of_an_alias() -> None:
    """An alias is resolved before the modules of a group are loaded."""
    groups = [app.cryo, *app.cryo.commands.values()]
    names = {
        name
        for group in groups
        if isinstance(group, Group)
        for name in group.list_commands(click.Context(group))
    }

    assert not names & set(ALIASES)
