"""Calls of the launcher in a fork server: what it answers, and that no client holds up another."""

from __future__ import annotations

import contextlib
import json
import os
import select
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from struct import pack, unpack

import pytest
from google.protobuf.any_pb2 import Any as AnyMessage

from shim import __version__
from shim.entry.shimbin import arrivals, call, forkserver, forkserver_client, paths, wire
from shim.entry.shimbin.arrivals import Arrivals
from shim.simgpu.waiting import wait_until
from tests.unit.helpers_forkserver import a_forkserver

_HEAD = 12


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, int]]:
    """Give the socket and the pid of a fork server."""
    folder = tmp_path_factory.mktemp("forkserver")
    before = Path.cwd()
    os.chdir(folder)
    try:
        with a_forkserver(folder) as (path, pid):
            os.chdir(before)
            yield path, pid
    finally:
        os.chdir(before)


def request(
    cwd: Path,
    *words: str,
    given: bytes = b"",
    env: Mapping[str, str] = {},
    spaces: Mapping[str, str] = {},
) -> bytes:
    """Encode a call as the launcher does."""
    ours = {name: str(Path(f"/proc/self/ns/{name}").readlink()) for name in ("mnt", "pid")}
    pairs = [f"{name}={value}" for name, value in {**os.environ, **env}.items()]
    texts = (wire.write_text(str(cwd)), wire.write_texts(pairs), wire.write_text(str(0o022)))
    namespaces = map(wire.write_text, {**ours, **spaces}.values())
    body = b"".join((wire.write_texts(["/the/launcher", *words]), *texts, *namespaces, given))
    return wire.RUN_MARK + pack(">I", len(body)) + body


def connected(path: Path) -> socket.socket:
    """Connect to a fork server."""
    peer = socket.socket(socket.AF_UNIX)
    peer.settimeout(60)
    peer.connect(os.path.relpath(path))
    return peer


def whole(peer: socket.socket) -> bytes:
    """Receive up to the end."""
    found = b""
    while piece := peer.recv(1 << 16):
        found += piece
    return found


def called(path: Path, data: bytes) -> tuple[int, bytes, bytes]:
    """Make a call and return what it answers."""
    with connected(path) as peer:
        peer.sendall(data)
        said = whole(peer)
    assert said.startswith(wire.RAN_MARK)
    said = said.removeprefix(wire.RAN_MARK)
    status, out, err = unpack(">III", said[:_HEAD])
    assert len(said) == _HEAD + out + err
    return status, said[_HEAD : _HEAD + out], said[_HEAD + out :]


def options(path: str) -> bytes:
    """Encode runtime options that name a config file."""
    value = bytes((0x12, len(path))) + path.encode()
    return AnyMessage(type_url="runtimeoptions.v1.Options", value=value).SerializeToString()


def test_it_answers_as_the_program_does(server: tuple[Path, int], tmp_path: Path) -> None:
    """Texts and status are those of the program in Python, also of a failure."""
    path, _ = server
    nothing = {"CRYO_CONFIG": str(tmp_path / "none.toml")}
    missing = options("/no/a.toml")
    for words, given in ((("-v",), b""), (("-info",), b"x"), (("delete",), b""), ((), b"")):
        argv = [sys.executable, "-m", "shim.entry.shimbin.main", *words]
        env = {**os.environ, **nothing}
        here = subprocess.run(
            argv, cwd=tmp_path, env=env, input=given, capture_output=True, timeout=60, check=False
        )
        said = called(path, request(tmp_path, *words, given=given, env=nothing))
        argv0 = json.dumps(str(Path(call.__file__).with_name("main.py"))).strip('"').encode()
        texts = [text.replace(argv0, b"/the/launcher") for text in (here.stdout, here.stderr)]
        assert said == (here.returncode, *texts)
    status, out, err = called(path, request(tmp_path, "-id", "x", "start", given=missing))
    assert (status, out) == (1, b"")
    assert b"/no/a.toml, does not exist" in err
    assert __version__.encode() in called(path, request(tmp_path, "-v"))[1]


def test_an_error_is_a_traceback(server: tuple[Path, int], tmp_path: Path) -> None:
    """An error that the program does not expect is status 1 and what Python prints."""
    (tmp_path / "a.toml").touch()
    (tmp_path / "cryo.settings").mkdir()

    given = options(str(tmp_path / "a.toml"))
    status, out, err = called(server[0], request(tmp_path, "-id", "x", "start", given=given))

    assert (status, out) == (1, b"")
    assert err.startswith(b"Traceback")
    assert b"IsADirectoryError" in err


@pytest.mark.parametrize(
    "data",
    (
        wire.RUN_MARK + pack(">I", 0),
        wire.RUN_MARK + pack(">I", 4) + b"1\0a\0",
        wire.RUN_MARK + pack(">I", wire.LIMIT + 1),
        wire.RUN_MARK + b"\0",
        wire.RUN_MARK + pack(">I", 9) + b"-1\0a\0b\0\0",
    ),
)
def test_a_call_that_is_none(server: tuple[Path, int], data: bytes) -> None:
    """It has no answer, so that the launcher runs the program."""
    with connected(server[0]) as peer:
        peer.sendall(data)
        peer.shutdown(socket.SHUT_WR)
        assert whole(peer) == wire.RAN_MARK


@pytest.mark.parametrize("changed", ({"mnt": "mnt:[1]"}, {"pid": "pid:[1]"}))
def test_a_call_of_another_namespace(
    server: tuple[Path, int], tmp_path: Path, changed: dict[str, str]
) -> None:
    """Paths and pids there are not those of the fork server: it has no answer."""
    with connected(server[0]) as peer:
        peer.sendall(request(tmp_path, "-v", spaces=changed))
        assert whole(peer) == wire.RAN_MARK


def test_a_call_from_a_directory_that_is_gone(server: tuple[Path, int], tmp_path: Path) -> None:
    """It has no answer either."""
    with connected(server[0]) as peer:
        peer.sendall(request(tmp_path / "gone", "-v"))
        assert whole(peer) == wire.RAN_MARK


def test_no_client_holds_up_another(server: tuple[Path, int], tmp_path: Path) -> None:
    """One that sends nothing, one that stops after the mark, and one that reads no answer."""
    path, pid = server
    silent, half, deaf = (connected(path) for _ in range(3))
    with silent, half, deaf:
        half.sendall(wire.RUN_MARK)
        deaf.sendall(request(tmp_path, "-info"))
        for _ in range(3):
            assert called(path, request(tmp_path, "-v"))[0] == 0
    wait_until(lambda: not _children(pid), "the end of the calls", 60)


def _children(pid: int) -> str:
    return Path(f"/proc/{pid}/task/{pid}/children").read_text("ascii")


def test_a_request_for_a_shim_is_read_at_once(server: tuple[Path, int]) -> None:
    """A pipe in place of the memory file is refused, and nothing stays open."""
    path, pid = server
    files = sorted(Path(f"/proc/{pid}/fd").iterdir())
    reader, writer = os.pipe()
    for fds in ([reader, writer], [writer], []):
        with connected(path) as peer:
            socket.send_fds(peer, [wire.SHIM_MARK], fds)
            assert whole(peer).startswith(b"no shim: ")
    os.close(reader)
    os.close(writer)
    assert sorted(Path(f"/proc/{pid}/fd").iterdir()) == files


def test_a_request_for_a_shim_comes_out_as_it_went_in() -> None:
    """Its argv, directory and variables; what is no variable is left out."""
    data = forkserver_client.encode(["-id", "x"], "/run/s", {"A": "b=c", "D": ""})

    found = forkserver.decode(data)

    assert (found.argv, found.socket, found.cwd) == (["-id", "x"], "/run/s", str(Path.cwd()))
    assert found.env == {"A": "b=c", "D": ""}
    assert wire.Reader(b"3\0A\0=b\0C=d\0").variables() == {"C": "d"}


@pytest.fixture
def listening(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Arrivals]:
    """Give arrivals at the socket `s` of the working directory."""
    monkeypatch.chdir(tmp_path)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("s")
        listener.listen()
        found = Arrivals(listener)
        yield found
        found.close()


def test_arrivals_are_those_with_bytes(listening: Arrivals) -> None:
    """A connection is returned when something has come, whatever came before it."""
    assert listening.next(0.01) is None
    first, second = connected(Path("s")), connected(Path("s"))
    with first, second:
        assert listening.next(0.01) is None
        second.sendall(b"x")
        found = listening.next(60)
        assert found is not None
        with found:
            assert found.recv(1) == b"x"
        first.close()
        ended = listening.next(60)
        assert ended is not None
        with ended:
            assert ended.recv(1) == b""


def test_the_oldest_silent_connection_is_closed(
    listening: Arrivals, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There are never more than a limit, and none for longer than a limit."""
    monkeypatch.setattr(arrivals, "_MOST", 2)
    peers = [connected(Path("s")) for _ in range(3)]
    with contextlib.ExitStack() as stack:
        for each in peers:
            stack.enter_context(each)
        until_closed(listening, peers[0])
        monkeypatch.setattr(arrivals, "_FIRST_BYTE_S", 0.0)
        last = stack.enter_context(connected(Path("s")))
        until_closed(listening, last)


def until_closed(listening: Arrivals, peer: socket.socket) -> None:
    """Let a listener go on until it has closed a connection."""
    until = time.monotonic() + 60
    while not select.select([peer], [], [], 0)[0] and time.monotonic() < until:
        assert listening.next(0.01) is None
    assert peer.recv(1) == b""


@pytest.fixture
def socket_of_a_shim() -> Iterator[socket.socket]:
    """Give a socket that a shim is to serve."""
    with socket.socket(socket.AF_UNIX) as made:
        yield made


def test_a_call_keeps_a_shim_of_its_own_fork_server(
    socket_of_a_shim: socket.socket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The fork becomes it; its socket stays open when `start` closes its own."""
    monkeypatch.chdir(tmp_path)
    starter = call.Becoming(paths.forkserver_socket("/a.toml"))
    starter.start(["start"], "/a/socket", socket_of_a_shim.fileno(), "/a.toml")

    assert starter.kept is not None
    request, fd = starter.kept
    kept = os.fstat(fd).st_ino
    os.close(fd)
    assert kept == os.fstat(socket_of_a_shim.fileno()).st_ino
    assert (request.argv, request.socket, request.cwd) == (["start"], "/a/socket", str(tmp_path))
    assert request.env == {**os.environ, paths.CONFIG_VARIABLE: "/a.toml"}


def test_a_call_asks_another_fork_server_for_its_shim(
    socket_of_a_shim: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One of another config file, which has other settings; it launches none."""
    monkeypatch.setattr(paths, "FORKSERVER_FOLDER", "/a/folder/that/is/not/there")
    starter = call.Becoming(paths.forkserver_socket("/a.toml"))

    with pytest.raises(forkserver_client.NotRunning):
        starter.start(["start"], "/a/socket", socket_of_a_shim.fileno(), "/other.toml")
    assert starter.kept is None
