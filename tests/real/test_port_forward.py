"""HTTP to a server in a container, through the sentry of real runsc."""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from shim.errors import CryoError, IllegalState, Unavailable, Unimplemented
from shim.host import http
from shim.host.http import Response
from shim.runsc.port_forward import open_stream
from shim.simgpu import tools
from shim.simgpu.simulation import wait_until
from tests.builds import RunscBuild
from tests.real.helpers_rig import WAIT_S, Rig
from tests.real.helpers_served import control_of_task, served

pytestmark = pytest.mark.timeout(180)

PORT = 8123
SERVER = """
import http.server, threading
never, slow = threading.Event(), 0
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        global slow
        if self.path == "/slow":
            slow += 1
            never.wait()
        self.send_response(200)
        self.end_headers()
        self.wfile.write(str(slow if self.path == "/asked" else self.path).encode())
http.server.ThreadingHTTPServer(("127.0.0.1", 8123), Handler).serve_forever()
"""
# A check of readiness that is not answered.
SLOW_CHECK = {"io.cryo.warm": "slow", "io.cryo.warm-when": f"http://:{PORT}/slow"}


# The old runsc cannot have a network of its own on a kernel of 2026.
@pytest.fixture(params=["new-sandbox", "new-host", "old-host"])
def rig(request: pytest.FixtureRequest) -> Iterator[Rig]:
    """Give a sidecar whose sandboxes have a loopback, and which runs a server in a container."""
    name, network, *down = request.param.split("-")
    build: RunscBuild = request.getfixturevalue(f"runsc_{name}")
    with served(build, network) as made:
        if down == ["down"]:
            namespace = Path(made.netns).name
            subprocess.run(["ip", "-n", namespace, "link", "set", "lo", "down"], check=True)
        server = SERVER.replace("127.0.0.1", "") if down == ["down"] else SERVER
        annotations = SLOW_CHECK if down == ["slow"] else {}
        bundle = made.bundle("job", [tools.interpreter(), "-ISc", server], annotations)
        made.rig.client.create("job", str(bundle))
        made.rig.client.start("job")
        yield made.rig


def control_of(rig: Rig) -> Path:
    """Return the control socket of the container's sandbox."""
    return control_of_task(rig, "job")


async def get(socket: Path, port: int = PORT, name: str = "job+", path: str = "/path") -> Response:
    """Make one request."""
    async with open_stream(socket, name, port, timeout_s=10.0) as (reader, writer):
        return await http.request(reader, writer, "GET", path, host="localhost", timeout_s=10.0)


def failed(kind: type[CryoError], socket: Path, port: int = PORT, name: str = "job+") -> None:
    """Make a request that cannot be made."""
    with pytest.raises(kind) as caught:
        asyncio.run(get(socket, port, name))
    assert type(caught.value) is kind, repr(caught.value)


def fds_of(pid: int) -> int:
    """Count the descriptors of a process."""
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


def test_http_to_a_container(rig: Rig) -> None:
    """It answers; nothing listens elsewhere; nothing is left in the sentry, which can be saved."""
    socket = control_of(rig)

    def answers() -> bool:
        try:
            return asyncio.run(get(socket)) == Response(status=200, body=b"/path")
        except Unavailable:
            return False

    wait_until(answers, "the server in the container", WAIT_S)
    pid = rig.client.state("job").pid
    before = fds_of(pid)
    for _ in range(20):
        assert answers()
    assert fds_of(pid) < before + 10
    failed(Unavailable, socket, port=PORT + 1)
    failed(IllegalState, socket, name="other+")
    if rig.sim.flags["network"] == "sandbox":  # the server's own connections are in TIME_WAIT
        rig.checkpoint("job")
    rig.end("job")
    failed(Unavailable, socket)


def test_no_network(machine: Rig) -> None:
    """Where runsc cannot connect, the error says so."""
    machine.sleeper("job")
    try:
        failed(Unimplemented, control_of(machine))
    finally:
        machine.clear()


@pytest.mark.parametrize("rig", ("new-sandbox-down",), indirect=True)
async def test_a_namespace_whose_loopback_is_down(rig: Rig) -> None:
    """The sandbox has none: the error says so, and how to set it up."""
    with pytest.raises(Unavailable, match="no loopback interface") as caught:
        async with open_stream(control_of(rig), "job+", PORT, timeout_s=WAIT_S):
            pytest.fail("there is no stream")
    assert "link set lo up" in caught.value.remedy


@pytest.mark.parametrize("rig", ("new-sandbox-slow",), indirect=True)
def test_a_save_while_a_check_waits_for_its_answer(rig: Rig) -> None:
    """The save closes the check's stream, which it could not write down; then it is made again."""
    socket = control_of(rig)

    def asked(times: int) -> bool:
        try:
            return int(asyncio.run(get(socket, path="/asked")).body) >= times
        except Unavailable:
            return False

    wait_until(lambda: asked(1), "the check", WAIT_S)
    rig.checkpoint("job")
    wait_until(lambda: asked(2), "the check after the save", WAIT_S)
