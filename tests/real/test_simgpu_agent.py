"""The simulation's agent runs programs as root, for root alone."""

from __future__ import annotations

import os
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from tempfile import mkdtemp

import pytest

from shim.simgpu.namespace import Namespace

pytestmark = pytest.mark.timeout(60)

NO_PROCESS = 65534
# Connects as another user and asks for a program; prints what came of it.
CALLER = """
import os, socket, sys
os.setgid(65534); os.setuid(65534)
peer = socket.socket(socket.AF_UNIX)
peer.settimeout(20)
try:
    peer.connect(sys.argv[1])
    asked = b'{"op":"run","argv":["/bin/id"],"timeout_s":5}'
    peer.sendall(len(asked).to_bytes(4, "big") + asked)
    print("answer", peer.recv(65536))
except OSError as error:
    print(type(error).__name__)
"""


@pytest.fixture
def folder() -> Iterator[Path]:
    """Give a simulation's folder, open to all, as it was made under umask 000."""
    if os.geteuid() != 0:
        pytest.skip("a private mount namespace needs root")
    path = Path(mkdtemp(prefix="cryo-sim-"))
    (path / "rootfs").mkdir()
    path.chmod(0o711)
    before = os.umask(0)
    try:
        namespace = Namespace(path, host_dev=False)
        yield path
        namespace.close()
    finally:
        os.umask(before)


def asked_by_another(path: Path) -> str:
    """Ask the agent as uid 65534."""
    argv = [sys.executable, "-ISc", CALLER, str(path)]
    done = subprocess.run(argv, stdout=subprocess.PIPE, text=True, check=True, timeout=60)
    return done.stdout.strip()


def test_another_user_cannot_ask_the_agent(folder: Path) -> None:
    """The socket is closed to others whatever the umask, and its peers are looked at besides."""
    path = folder / "agent.sock"

    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert asked_by_another(path) == "PermissionError"

    path.chmod(0o666)
    assert asked_by_another(path) in {"answer b''", "BrokenPipeError", "ConnectionResetError"}


def test_root_can(folder: Path) -> None:
    """Our own user is answered."""
    with socket.socket(socket.AF_UNIX) as peer:
        peer.settimeout(20)
        peer.connect(str(folder / "agent.sock"))
        asked = b'{"op":"run","argv":["/bin/true"],"timeout_s":5}'
        peer.sendall(len(asked).to_bytes(4, "big") + asked)
        assert b'"status"' in peer.recv(65536)
