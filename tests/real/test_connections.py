"""TCP between a task without a GPU and another network namespace: kept, or with a warning."""

from __future__ import annotations

import secrets
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from shim.errors import Refused
from shim.model import Connections
from shim.simgpu.simulation import Settings, Simulation, wait_until
from tests.builds import RunscBuild, excuse
from tests.real.helpers_rig import WAIT_S, Rig, refused

pytestmark = pytest.mark.timeout(180)

SERVER, CLIENT = "10.213.77.1", "10.213.77.2"
# Answers each byte on each connection; a line on stdout for each answer.
ECHO = """
import socket, sys, threading
server = socket.create_server((sys.argv[1], 7777))
def serve(peer):
    while data := peer.recv(1):
        peer.sendall(data)
        print("answered", flush=True)
    print("closed", flush=True)
while True:
    threading.Thread(target=serve, args=(server.accept()[0],), daemon=True).start()
"""
# Uses one connection forever, and says in a file how that goes.
USE = """
import os, socket, sys, time
peer = socket.create_connection((sys.argv[1], 7777))
count = 0
while True:
    try:
        peer.sendall(b".")
        word = "used" if peer.recv(1) else "ended"
    except OSError as error:
        word = type(error).__name__
    count += 1
    with open("/tmp/new", "w") as file:
        file.write(f"{word} {count}")
    os.rename("/tmp/new", "/tmp/word")
    time.sleep(0.1)
"""


def ip(*words: str) -> None:
    """Run `ip`."""
    subprocess.run(["ip", *words], check=True, capture_output=True)


@dataclass
class Net:
    """Two network namespaces with a cable between them, and an echo server in the first."""

    near: str
    far: str
    server: subprocess.Popen[bytes]

    def until_answered(self) -> None:
        """Wait until the server has answered once more."""
        assert self.server.stdout is not None
        assert self.server.stdout.readline() == b"answered\n"


@pytest.fixture
def net() -> Iterator[Net]:
    """Make the two, and take them away."""
    if shutil.which("ip") is None:
        excuse("there is no ip program to make network namespaces with")
    tag = secrets.token_hex(3)
    far, near = f"cryo-f{tag}", f"cryo-n{tag}"
    made: list[str] = []
    try:
        for name in (far, near):
            ip("netns", "add", name)
            made.append(name)
        ip("link", "add", f"f{tag}", "netns", far, "type", "veth", "peer", f"n{tag}", "netns", near)
        for name, link, address in ((far, f"f{tag}", SERVER), (near, f"n{tag}", CLIENT)):
            ip("-n", name, "addr", "add", f"{address}/24", "dev", link)
            ip("-n", name, "link", "set", link, "up")
            ip("-n", name, "link", "set", "lo", "up")
        argv = ["ip", "netns", "exec", far, sys.executable, "-c", ECHO, SERVER]
        with subprocess.Popen(argv, stdout=subprocess.PIPE) as server:
            try:
                yield Net(near, far, server)
            finally:
                server.kill()
    finally:
        for name in made:
            ip("netns", "del", name)


@pytest.fixture
def rig(net: Net, runsc_new: RunscBuild) -> Iterator[Rig]:
    """Give a sidecar whose sandboxes have a network of their own."""
    with Simulation(runsc_new.path) as sim:
        sim.flags["network"] = "sandbox"
        sim.start_sidecar()
        made = Rig(sim, runsc_new)
        try:
            yield made
        finally:
            made.clear()


def word(rig: Rig, name: str) -> str:
    """Read how the task's connection goes."""
    return rig.guest.exec(name, ["/bin/cat", "/tmp/word"]).out.partition(" ")[0]


def test_tcp_of_a_task_without_a_gpu(rig: Rig, net: Net) -> None:
    """It is named or refused; the original goes on with it, and a copy has lost it."""
    bundle = rig.sim.bundle("job", Settings(gpu=False), inject_tool=False)
    with rig.edited(bundle) as spec:
        python = spec["process"]["args"][0]
        spec["process"]["args"] = [python, "-ISc", USE, SERVER]
        spaces = [one for one in spec["linux"]["namespaces"] if one["type"] != "network"]
        own = {"type": "network", "path": f"/run/netns/{net.near}"}
        spec["linux"]["namespaces"] = [*spaces, own]
        spec["mounts"].append({"destination": "/tmp", "type": "tmpfs", "source": "tmpfs"})
    rig.client.create("job", str(bundle))
    rig.client.start("job")
    net.until_answered()

    error = refused(Refused, lambda: rig.checkpoint("job", connections=Connections.REFUSE))
    assert f"{SERVER}:7777" in error.message
    net.until_answered()

    made = rig.checkpoint("job")
    assert made.warnings == (f"a restored copy has lost its TCP connections: {SERVER}:7777",)
    for _ in range(3):
        net.until_answered()
    wait_until(lambda: word(rig, "job") == "used", "the original goes on", WAIT_S)

    rig.restore("copy", made.image_path)
    wait_until(lambda: word(rig, "copy") == "BrokenPipeError", "the copy has lost it", WAIT_S)
    assert word(rig, "job") == "used"
