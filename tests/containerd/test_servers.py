"""Real servers as warm containers: saved under load, and restored under another address."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from hack.tools.servers import ARCHIVE
from shim.simgpu.waiting import environment, wait_until
from tests.builds import RunscBuild
from tests.containerd import image
from tests.containerd.builds import LINES, ContainerdBuild
from tests.containerd.conftest import program
from tests.containerd.cryo import Cryo
from tests.containerd.named import annotated, named
from tests.containerd.network import Interface, Network
from tests.containerd.place import Place

pytestmark = pytest.mark.parametrize("containerd_build", LINES[-1:], indirect=True)
WAIT_S = 150
HEALTH = "http://:8000/health"


@dataclass(frozen=True)
class Server:
    """A server: how it is started, when it is ready, and how clients speak to it.

    It is ready when /tmp/ready exists, which the test creates when clients send requests.
    `has_data` is a command that succeeds when what clients wrote is there.
    """

    name: str
    command: str
    when: str = HEALTH
    protocol: str = "http"
    port: int = 8000
    flags: tuple[str, ...] = ()
    has_data: str = "true"

    def __str__(self) -> str:
        """Return the name that test ids use."""
        return self.name


def ready_with(command: str) -> str:
    """Return the check that a command succeeds, once the test allows it."""
    return f"exec sh -c 'test -e /tmp/ready && {command}'"


REDIS = Server(
    "redis",
    "exec redis-server --bind 0.0.0.0 --protected-mode no --dir /tmp",
    ready_with("redis-cli ping"),
    "redis",
    6379,
    has_data='test "$(redis-cli dbsize)" -gt 0',
)
_POSTGRES = "/usr/lib/postgresql/15/bin"
POSTGRES = Server(
    "postgres",
    "exec sh /srv/postgres.sh",
    ready_with(f"{_POSTGRES}/pg_isready -h 127.0.0.1"),
    "postgres",
    5432,
    ("--user", "70:70"),
    f"{_POSTGRES}/psql -h 127.0.0.1 -U postgres -c 'SELECT 1 / count(*) FROM written'",  # noqa: S608
)
NGINX = Server("nginx", "mkdir -p /var/log/nginx; exec /usr/sbin/nginx -c /srv/nginx.conf")
PYTHON = Server("python", "exec python3.11 /srv/server.py")
NODE = Server("node", "exec node /srv/server.js")
JAVA = Server("java", "exec /usr/lib/jvm/java-17-openjdk-amd64/bin/java /srv/Server.java")
GO = Server("go", "exec /srv/server")


class Rig:
    """A containerd whose sandboxes have a network, and clients in a namespace of their own."""

    def __init__(self, cryo: Cryo, network: Network) -> None:
        self.cryo = cryo
        self.network = network

    def start(self, server: Server, name: str, warm: str, where: Interface) -> None:
        """Start a server as a warm container."""
        more = (
            "io.cryo.warm-timeout=120",
            f"io.cryo.warm={warm}",
            f"io.cryo.warm-when={server.when}",
        )
        flags = ("-d", *annotated(*more), *where.flags, *server.flags)
        how = {"flags": flags, "reference": self.reference(server)}
        self.cryo.run(name, "sh", "-c", server.command, **how)

    def load(self, server: Server, where: Interface, *flags: str) -> tuple[int, Path]:
        """Start clients; return their pid and the file with their output."""
        output = self.cryo.folder / "scratch" / self.cryo.fresh("load")
        whom = (server.protocol, where.address, str(server.port))
        argv = self.network.argv(sys.executable, "-m", "tests.containerd.load", *whom, *flags)
        return self.cryo.place.remote.spawn(argv, output=output, env=environment()), output

    def end(self, load: tuple[int, Path]) -> str:
        """Wait for the end of clients; return what the server said of itself."""
        pid, output = load
        status = self.cryo.place.remote.wait(pid, WAIT_S)
        text = output.read_text("utf-8")
        assert status == 0, text  # of a rig for tests
        return text.splitlines()[-1]

    def import_image(self, server: Server, archive: Path) -> None:
        """Import the image of a server."""
        rootfs = program(f"server-{server}", ARCHIVE).read_bytes()
        image.write_layer(archive, rootfs, reference=self.reference(server), command=("/bin/sh",))
        self.cryo.import_image(archive)

    @staticmethod
    def reference(server: Server) -> str:
        """Return the name of a server's image."""
        return f"docker.io/library/cryoserver-{server}:1"


def answers(output: Path) -> int:
    """Return how many lines clients have printed."""
    return output.read_text("utf-8").count("\n") if output.exists() else 0


@pytest.fixture(scope="module")
def rig(
    containerd_build: ContainerdBuild, place: Place, runsc_new: RunscBuild, archive: Path
) -> Iterator[Rig]:
    """Yield a containerd whose sandboxes have a network."""
    network = Network(place)
    network.start()
    with Cryo(containerd_build, place, runsc_new.path, flags={}) as made:
        made.import_image(archive)
        with network.interface() as first:
            made.run("first", "true", flags=("--rm", *first.flags))
        made.know()
        yield Rig(made, network)
    network.end()


def check(rig: Rig, server: Server, folder: Path) -> None:
    """Start a server cold under load, and again from its image under another address."""
    cryo = rig.cryo
    rig.import_image(server, folder / "image.tar")
    warm, stop = cryo.fresh(server.name), folder / "stop"
    with rig.network.interface() as where, cryo.removing(warm):
        rig.start(server, warm, warm, where)
        load = rig.load(server, where, "--until", str(stop))
        wait_until(lambda: answers(load[1]) > 1, "answers", WAIT_S)
        cryo.exec(warm, "touch", "/tmp/ready")
        named(cryo, warm).until_saved()
        before = answers(load[1])
        wait_until(lambda: answers(load[1]) > before + 2, "answers after the save", WAIT_S)
        stop.touch()
        token = rig.end(load)

    again = cryo.fresh(server.name)
    with rig.network.interface() as elsewhere, cryo.removing(again):
        rig.start(server, again, warm, elsewhere)
        cryo.exec(again, "sh", "-c", server.has_data)
        assert rig.end(rig.load(server, elsewhere)) == token
        assert elsewhere.address != where.address
    assert (named(cryo, warm).use()["hits"], named(cryo, warm).use()["misses"]) == (1, 1)
    cryo.expect_nothing_new()


@pytest.mark.parametrize("server", (NGINX, GO), ids=str)
def test_one_server(rig: Rig, server: Server, tmp_path: Path) -> None:
    """A server answers during the save and after the restore, and is the same process."""
    check(rig, server, tmp_path)


@pytest.mark.long
@pytest.mark.parametrize("server", (REDIS, POSTGRES, PYTHON, NODE, JAVA), ids=str)
def test_server(rig: Rig, server: Server, tmp_path: Path) -> None:
    """The same holds for others, whose data of before is there."""
    check(rig, server, tmp_path)
