"""Real registries: blobs, documents and whole images, and what happens when one side is killed."""

from __future__ import annotations

import base64
import os
import random
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from shim.distribution import artifact, media
from shim.distribution.http_options import HttpOptions
from shim.distribution.place import Document
from shim.distribution.pull import pull
from shim.distribution.push import push
from shim.distribution.transfer import PullOptions, PullTarget, PushOptions, Transfer
from shim.errors import Cancelled, CryoError, ImageCorrupt, NotFound, PermissionDenied, Unavailable
from shim.image.side_files import is_side_file
from shim.image.verify import verify
from shim.image.verify_cache import VerifyCache
from shim.model import Progress, Verify
from tests.certificates import Certificates
from tests.gate import Gate
from tests.real.helpers_registries import registry_server
from tests.registry_server import NAMES, PASSWORD, USER, RegistryServer
from tests.unit.image_helpers import ProgressLog, fill, manifest, seal_at
from tests.wire.helpers_registry import BLOB, CONTENT, options, put, registry_at, write_config

MIB = 1 << 20
TAG = "v1"
PAGES_MIB = 48
# A program that pulls, to be killed: the host, the folder of images, and the name.
PULL = """
import sys
from pathlib import Path
from tests.real.test_registries import Machine
Machine(Path(sys.argv[2])).pull(sys.argv[1], sys.argv[3])
"""


class Machine:
    """Images below a folder."""

    def __init__(self, root: Path) -> None:
        self.images = root / "images"
        self.cache = VerifyCache(root / "verified")

    def image(self, name: str, data: bytes) -> Path:
        """Make a sealed image with these pages."""
        folder = fill(self.images / name)
        (folder / "pages.img").write_bytes(data)
        seal_at(folder, manifest())
        return folder

    def push(self, host: str, image: Path) -> Transfer:
        """Push an image."""
        with registry_at(host, options()) as registry:
            return push(image, registry, TAG, PushOptions(), ProgressLog())

    def pull(self, host: str, name: str) -> Transfer:
        """Pull to a path of this name."""
        target = PullTarget(path_for=lambda _: self.images / name, verified=self.cache)
        with registry_at(host, options()) as registry:
            return pull(registry, host, TAG, target, PullOptions(), ProgressLog())

    def check_same(self, name: str, image: Path) -> None:
        """Read a whole image, and compare it with another."""
        verify(self.images / name, Verify.FULL, self.cache, ProgressLog())
        for path in image.iterdir():
            if is_side_file(path.name):
                continue
            assert (self.images / name / path.name).read_bytes() == path.read_bytes()


def pages(seed: int = 1, mib: int = PAGES_MIB) -> bytes:
    """Return bytes that do not repeat."""
    return random.Random(seed).randbytes(mib * MIB)


@pytest.fixture(params=NAMES)
def server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[RegistryServer]:
    """Give each registry; it is not started yet."""
    with registry_server(request.param, tmp_path / "registry") as made:
        yield made


@pytest.fixture
def running(server: RegistryServer) -> RegistryServer:
    """Start it."""
    server.start()
    return server


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    """Give an empty one."""
    return Machine(tmp_path)


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    """Make a CA and a server's certificate."""
    return Certificates(tmp_path_factory.mktemp("certificates"))


def test_blobs_and_documents_come_back(running: RegistryServer) -> None:
    """And what is missing or wrong is said."""
    document = Document(media_type=media.MANIFEST, data=_manifest_of_blob())
    with registry_at(running.host) as registry:
        assert not registry.has_blob(BLOB)
        put(registry)
        assert registry.has_blob(BLOB)
        assert b"".join(registry.get_blob(BLOB)) == CONTENT
        stored = registry.put_document(document)
        index = artifact.wrap(document, {})
        registry.put_document(index, TAG)
        assert registry.get_document(TAG) == index
        assert registry.get_document(stored.digest) == document
        with pytest.raises(NotFound, match="other"):
            registry.get_document("other")


def test_a_blob_with_another_digest_is_refused(running: RegistryServer, tmp_path: Path) -> None:
    """The registry compares it, and keeps nothing of it."""
    path = tmp_path / "blob"
    path.write_bytes(b"x" * len(CONTENT))
    with (
        registry_at(running.host) as registry,
        path.open("rb") as content,
        pytest.raises(ImageCorrupt, match="DIGEST_INVALID"),
    ):
        registry.put_blob(BLOB, content)

    assert running.blobs() == set()


@pytest.mark.parametrize("tls", (False, True), ids=("plain", "TLS"))
def test_a_login_is_needed_and_enough(
    server: RegistryServer, certificates: Certificates, tmp_path: Path, tls: bool
) -> None:
    """With the password of the file; without it, or with another one, each is one clear error."""
    server.with_login = True
    server.certificates = certificates if tls else None
    server.start()
    ca = str(certificates.ca) if tls else None
    encoded = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()

    config = write_config(tmp_path, server.host, auth=encoded)
    with registry_at(server.host, options(docker_config=config, ca_file=ca)) as registry:
        assert b"".join(registry.get_blob(put(registry))) == CONTENT
    with (
        registry_at(server.host, options(ca_file=ca)) as registry,
        pytest.raises(PermissionDenied, match="requires a login"),
    ):
        put(registry)
    config = write_config(tmp_path, server.host, username=USER, password=PASSWORD[1:])
    with (
        registry_at(server.host, options(docker_config=config, ca_file=ca)) as registry,
        pytest.raises(PermissionDenied, match=config),
    ):
        put(registry)


def test_what_tls_needs_is_said(
    server: RegistryServer, certificates: Certificates, tmp_path: Path
) -> None:
    """The remedies name the options: another CA, TLS to no TLS, and no TLS to TLS."""
    server.certificates = certificates
    server.start()
    other = Certificates(tmp_path / "other")

    assert "--ca-file" in _remedy(server, options(ca_file=str(other.ca)))
    assert "--plain-http" in _remedy(server, options())
    server.kill()
    server.certificates = None
    server.start()
    assert "--plain-http" in _remedy(server, options(ca_file=str(certificates.ca)))


def test_an_image_goes_there_and_comes_back(running: RegistryServer, machine: Machine) -> None:
    """The second push of a changed image, and its pull, move only what changed."""
    data = pages()
    first = machine.image("first", data)
    changed = data[: 20 * MIB] + pages(2, 2) + data[22 * MIB :]
    second = machine.image("second", changed)

    pushed = machine.push(running.host, first)
    assert pushed.bytes_moved >= len(data)
    pulled = machine.pull(running.host, "pulled")
    assert pulled.digest == pushed.digest
    machine.check_same("pulled", first)

    again = machine.push(running.host, second)
    # What changed, and at most the rest of a chunk on both sides of it.
    assert 2 * MIB <= again.bytes_moved <= 2 * MIB + 2 * 8 * MIB
    assert again.bytes_reused >= len(data) - 18 * MIB
    machine.pull(running.host, "again")
    machine.check_same("again", second)


def test_a_pull_that_is_killed_goes_on(running: RegistryServer, machine: Machine) -> None:
    """What arrived before the kill is not fetched again."""
    image = machine.image("image", pages())
    machine.push(running.host, image)
    with Gate(running.host) as gate:
        gate.hold_after(PAGES_MIB * MIB // 2)
        argv = [sys.executable, "-c", PULL, gate.host, str(machine.images.parent), "pulled"]
        process = subprocess.Popen(argv, env={**os.environ, "PYTHONPATH": str(Path.cwd())})
        try:
            assert gate.held.wait(120)
        finally:
            process.send_signal(signal.SIGKILL)
            process.wait(30)
        gate.cut()
        assert not (machine.images / "pulled").exists()

        found = machine.pull(gate.host, "pulled")

    # Threads may lose a chunk each, of up to 8 MiB.
    assert found.bytes_reused > 0
    assert found.bytes_moved <= PAGES_MIB * MIB - found.bytes_reused + MIB
    machine.check_same("pulled", image)


def _interrupted(gate: Gate, server: RegistryServer, work: str, machine: Machine) -> CryoError:
    """Push or pull, and kill the registry half way; return the error."""
    failures: list[CryoError] = []

    def run() -> None:
        try:
            if work == "push":
                machine.push(gate.host, machine.images / "image")
            else:
                machine.pull(gate.host, "pulled")
        except CryoError as error:
            failures.append(error)

    gate.hold_after(PAGES_MIB * MIB // 2)
    thread = threading.Thread(target=run)
    thread.start()
    assert gate.held.wait(120)
    server.kill()
    gate.cut()
    thread.join(120)
    assert not thread.is_alive()
    [failure] = failures
    return failure


@pytest.mark.parametrize("work", ("push", "pull"))
def test_a_registry_that_dies_half_way(
    running: RegistryServer, machine: Machine, work: str
) -> None:
    """There is one clear error; when it runs again, the next attempt needs only the rest."""
    image = machine.image("image", pages())
    with Gate(running.host) as gate:
        if work == "pull":
            machine.push(running.host, image)
        failure = _interrupted(gate, running, work, machine)

        assert isinstance(failure, Unavailable)
        assert gate.host in failure.message
        assert failure.remedy
        assert not (machine.images / "pulled").exists()
        running.start()
        gate.target = running.host
        if work == "push":
            pushed = machine.push(gate.host, image)
            assert pushed.bytes_reused > 0
        pulled = machine.pull(gate.host, "pulled")

    assert work == "push" or pulled.bytes_reused > 0
    machine.check_same("pulled", image)


def test_a_cancelled_push_leaves_no_document(running: RegistryServer, machine: Machine) -> None:
    """What hangs is ended, no tag refers to what was sent, and the next push needs the rest."""
    image = machine.image("image", pages())
    with Gate(running.host) as gate, registry_at(gate.host) as registry:
        gate.hold_after(PAGES_MIB * MIB // 2)

        def report(_: Progress) -> None:
            if gate.held.is_set():
                raise Cancelled("cancelled")

        with pytest.raises(Cancelled):
            push(image, registry, TAG, PushOptions(), report)
    with registry_at(running.host) as registry, pytest.raises(NotFound):
        registry.get_document(TAG)

    assert machine.push(running.host, image).bytes_reused > 0


def _remedy(server: RegistryServer, chosen: HttpOptions) -> str:
    with registry_at(server.host, chosen) as registry, pytest.raises(CryoError) as caught:
        put(registry)
    return caught.value.remedy


def _manifest_of_blob() -> bytes:
    found = artifact.encode(artifact.Artifact(config=BLOB, chunks=()))
    return found.data
