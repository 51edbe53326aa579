"""HTTP hooks of a server in a container on real runsc, and the example that drops its cache."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from hack.examples import cache_server
from shim.errors import CryoError, DeadlineExceeded, HookFailed, Impossible
from shim.simgpu import tools
from shim.state import TaskState
from tests.builds import RunscBuild
from tests.real.helpers_rig import Rig, refused
from tests.real.helpers_served import Served, served

pytestmark = pytest.mark.timeout(240)

PORT = 8124
MIB = 1 << 20
CACHE_MIB = 64
PRE, POST, RESTORED = (f"io.cryo.hook.{k}" for k in ("pre-freeze", "post-thaw", "post-restore"))
HOOKS = {
    PRE: f"http://:{PORT}/sleep?level=1",
    POST: f"http://:{PORT}/wake_up",
    RESTORED: f"http://:{PORT}/wake_up",
}
# Answers a /sleep as the file says; keeps the other requests, and shows them.
MOODY = """
import http.server, pathlib, time
mood, seen = pathlib.Path("/tmp/mood"), []
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.say(200, " ".join(seen).encode())
    def do_POST(self):
        assert self.rfile.read(int(self.headers["Content-Length"])) == b"{}"
        if self.path != "/sleep":
            seen.append(self.path)
            return self.say(200, b"")
        now = mood.read_text()
        while now == "hang" and mood.read_text() == now:
            time.sleep(0.05)
        if now == "flood":
            self.say(503, b"\\x1b" * 3000000)
        elif now == "garbage":
            self.wfile.write(b"\\x1b[2J not HTTP\\r\\n\\r\\n")
        else:
            self.say(200 if now == "fine" else 500, b"busy\\x1b[31m")
    def say(self, status, body):
        self.send_response(status)
        self.end_headers()
        self.wfile.write(body)
http.server.ThreadingHTTPServer(("127.0.0.1", 8124), Handler).serve_forever()
"""


@pytest.fixture(params=("sandbox",))
def server(request: pytest.FixtureRequest, runsc_new: RunscBuild) -> Iterator[Served]:
    """Give a sidecar whose sandboxes have a network of their own, or the host's."""
    with served(runsc_new, request.param) as made:
        yield made


def size(image: str) -> int:
    """Return the size of an image on disk."""
    return sum(one.stat().st_blocks * 512 for one in Path(image).iterdir())


def cache_of(server: Served, name: str) -> list[int]:
    """Return the size of a server's cache, and how often it was filled."""
    return [int(word) for word in server.get(name, PORT).body.split()]


def test_a_cache_that_a_hook_drops(server: Served) -> None:
    """The image is several times smaller without it, and each copy fills it again."""
    source = Path(cache_server.__file__).read_text("utf-8")
    argv = [tools.interpreter(), "-ISc", source, str(PORT), str(CACHE_MIB)]
    server.start("plain", argv, {}, PORT)
    plain = server.rig.checkpoint("plain")
    server.rig.end("plain")
    server.start("job", argv, HOOKS, PORT)

    made = server.rig.checkpoint("job")

    assert made.warnings == ()
    assert size(plain.image_path) > CACHE_MIB * MIB
    assert size(made.image_path) * 3 < size(plain.image_path)
    assert cache_of(server, "job") == [CACHE_MIB * MIB, 2]
    result = server.rig.restore("copy", made.image_path)
    assert "post-restore" in result.timings_s
    assert cache_of(server, "copy") == [CACHE_MIB * MIB, 2]


@pytest.mark.parametrize("server", ("host",), indirect=True)
def test_a_server_on_the_hosts_network(server: Served) -> None:
    """Its hooks reach it there, also in a copy that takes the port of the ended container."""
    source = Path(cache_server.__file__).read_text("utf-8")
    server.start("job", [tools.interpreter(), "-ISc", source, str(PORT), "1"], HOOKS, PORT)

    made = server.rig.checkpoint("job")

    assert {"pre-freeze", "post-thaw"} < set(made.timings_s)
    assert cache_of(server, "job") == [MIB, 2]
    server.rig.end("job")
    result = server.rig.restore("copy", made.image_path)
    assert "post-restore" in result.timings_s
    assert cache_of(server, "copy") == [MIB, 2]


def test_the_old_runsc_on_the_hosts_network(runsc_old: RunscBuild) -> None:
    """It cannot save such a sandbox: that is refused before a hook runs."""
    with served(runsc_old, "host") as server:
        server.start("job", [tools.interpreter(), "-ISc", MOODY], HOOKS, PORT)

        error = refused(Impossible, lambda: server.rig.checkpoint("job"))

        assert "the host's network" in error.message
        assert server.get("job", PORT).body == b""
        assert server.rig.client.state("job").state is TaskState.RUNNING
        assert server.rig.client.images() == []


@pytest.mark.every_combination
def test_a_sandbox_without_a_network(rig: Rig) -> None:
    """The checkpoint fails before anything is frozen, and names what can be used instead."""
    bundle = rig.bundle("job", ["/bin/sleep", "1000"])
    with rig.edited(bundle) as spec:
        spec["annotations"] = HOOKS
    rig.client.create("job", str(bundle))
    rig.client.start("job")

    error = refused(HookFailed, lambda: rig.checkpoint("job"))

    assert error.message.startswith("the hook pre-freeze of job failed: runsc does not connect")
    assert "exec" in error.remedy
    assert rig.client.state("job").state is TaskState.RUNNING
    assert rig.client.images() == []


@pytest.mark.parametrize(
    "server", ("sandbox", pytest.param("host", marks=pytest.mark.long)), indirect=True
)
def test_a_server_that_does_not_do_as_asked(server: Served) -> None:
    """The checkpoint fails with what it answered, cut and escaped; it runs on and is undone."""
    wrong = {**HOOKS, PRE: f"http://:{PORT}/sleep", "io.cryo.hook.timeout": "2"}
    server.start("job", [tools.interpreter(), "-ISc", MOODY], wrong, PORT)
    rig = server.rig

    def fails(mood: str, kind: type[CryoError]) -> str:
        assert rig.behind.exec("job", ["/bin/sh", "-c", f"printf {mood} > /tmp/mood"]).status == 0
        error = refused(kind, lambda: rig.checkpoint("job"))
        assert rig.client.state("job").state is TaskState.RUNNING
        assert rig.client.images() == []
        return error.message

    begins = "the hook pre-freeze of job "
    assert fails("busy", HookFailed) == (f"{begins}failed: POST /sleep: status 500: busy\\x1b[31m")
    flood = fails("flood", HookFailed)
    assert flood.startswith(f"{begins}failed: POST /sleep: status 503: \\x1b\\x1b")
    assert len(flood) < 600
    assert fails("hang", DeadlineExceeded) == f"{begins}did not end in 2 s"
    assert "the answer begins with b'\\x1b[2J not HTTP'" in fails("garbage", HookFailed)
    assert server.get("job", PORT).body == b"/wake_up /wake_up /wake_up /wake_up"

    rig.behind.exec("job", ["/bin/sh", "-c", "printf fine > /tmp/mood"])
    assert rig.checkpoint("job").warnings == ()
