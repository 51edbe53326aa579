"""The connections of a process, seen from outside."""

from __future__ import annotations

import os
import resource
import socket
from pathlib import Path

import pytest

from shim.errors import DeadlineExceeded, NotFound
from shim.host.peers import Connection, connections
from tests.unit.helpers_descriptors import descriptors


def test_named_peers_are_listed_and_others_not(tmp_path: Path) -> None:
    """Connections with a name are listed; listeners, pairs and datagram sockets are not."""
    before = len(descriptors())
    path = str(tmp_path / "s")
    with (
        socket.socket(socket.AF_UNIX) as listener,
        socket.socket(socket.AF_UNIX) as client,
        socket.create_server(("127.0.0.1", 0)) as server,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagram,
    ):
        listener.bind(path)
        listener.listen()
        client.connect(path)
        port = server.getsockname()[1]
        datagram.connect(("127.0.0.1", port))
        left, right = socket.socketpair()
        with left, right, socket.create_connection(("127.0.0.1", port), timeout=5):
            found = connections(os.getpid())

    assert Connection("unix", path) in found
    assert Connection("tcp", f"127.0.0.1:{port}") in found
    ours = [each for each in found if each.kind == "unix" and each.peer.startswith(str(tmp_path))]
    assert len(ours) == 1
    assert len(descriptors()) == before


def test_abstract_names_are_readable() -> None:
    """An abstract socket's name begins with an at sign."""
    name = f"\0cryo-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX) as listener, socket.socket(socket.AF_UNIX) as client:
        listener.bind(name)
        listener.listen()
        client.connect(name)
        found = connections(os.getpid())

    assert Connection("unix", name.replace("\0", "@")) in found


def test_as_many_files_as_there_are() -> None:
    """A sandbox has two descriptors for each file that is open in it: none is too many."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (before[1], before[1]))
    held = [os.open("/dev/null", os.O_RDONLY) for _ in range(min(17000, before[1] - 200))]
    name = f"\0cryo-test-last-{os.getpid()}"
    try:
        with socket.socket(socket.AF_UNIX) as listener, socket.socket(socket.AF_UNIX) as client:
            listener.bind(name)
            listener.listen()
            client.connect(name)
            found = connections(os.getpid())
    finally:
        for fd in held:
            os.close(fd)
        resource.setrlimit(resource.RLIMIT_NOFILE, before)

    assert Connection("unix", name.replace("\0", "@")) in found


def test_a_look_that_takes_too_long_ends() -> None:
    """It says so, and how many files there were by then."""
    with pytest.raises(DeadlineExceeded, match="open files"):
        connections(os.getpid(), limit_s=-1)


def test_gone_process_is_not_found() -> None:
    """An unused pid is not found."""
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)

    with pytest.raises(NotFound):
        connections(pid)
