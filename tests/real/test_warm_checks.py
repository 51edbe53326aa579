"""Readiness by requests to a server in the container, on real runsc."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from shim.simgpu import tools
from shim.simgpu.simulation import wait_until
from tests.builds import RunscBuild
from tests.real.helpers_rig import WAIT_S, Rig
from tests.real.helpers_served import Served, served

pytestmark = pytest.mark.timeout(180)

PORT = 8125
UP = "/tmp/up"
# Each is ready once the file exists: the one answers with 503 before, the other does not listen.
ANSWERS = """
import http.server, os, time
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200 if self.path != "/health" or os.path.exists("/tmp/up") else 503)
        self.send_header("Content-Length", "0")
        self.end_headers()
while WAITS and not os.path.exists("/tmp/up"):
    time.sleep(0.05)
http.server.HTTPServer(("127.0.0.1", 8125), Handler).serve_forever()
"""
CHECKS = {
    f"http://:{PORT}/health": ANSWERS.replace("WAITS", "False"),
    f"tcp://:{PORT}": ANSWERS.replace("WAITS", "True"),
}


@pytest.fixture
def server(runsc_new: RunscBuild) -> Iterator[Served]:
    """Give a sidecar whose sandboxes have a network of their own."""
    with served(runsc_new, "sandbox") as made:
        yield made


def images(rig: Rig) -> list[Path]:
    """List the complete images."""
    return list((rig.sim.folder / "images" / "default" / "web").glob("*/[0-9]*/cryo.json"))


def restored(server: Served, name: str, bundle: Path) -> bool:
    """Start a container; return whether it came from an image."""
    client = server.rig.client
    client.create(name, str(bundle))
    client.start(name)
    return any(view.id == name and view.restored_from for view in client.list())


@pytest.mark.parametrize("check", CHECKS)
def test_a_server_that_is_asked(server: Served, check: str) -> None:
    """It is saved when it answers as the check demands, not before; a copy answers at once."""
    warm = {"io.cryo.warm": "web", "io.cryo.warm-when": check, "io.cryo.warm-period": "0.1"}
    argv = [tools.interpreter(), "-ISc", CHECKS[check]]
    rig = server.rig
    assert not restored(server, "cold", server.bundle("cold", argv, warm))
    if check.startswith("http"):
        server.until_answers("cold", PORT)
    assert rig.behind.exec("cold", ["/bin/ls", UP]).status != 0
    assert images(rig) == []

    assert rig.behind.exec("cold", ["/bin/touch", UP]).status == 0

    wait_until(lambda: bool(images(rig)), "the save", 3 * WAIT_S)
    assert restored(server, "warm", server.bundle("warm", argv, warm))
    server.until_answers("warm", PORT)
    assert rig.behind.exec("warm", ["/bin/ls", UP]).status == 0
    server.until_answers("cold", PORT)
