"""Images in buckets of a real S3 server: pushed, resumed, encrypted, and refused when changed."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

import msgspec
import pytest

from shim.distribution import artifact
from shim.distribution.blob import Descriptor
from shim.distribution.bucket import Bucket
from shim.distribution.http_options import HttpOptions
from shim.distribution.key_sources import KeySources
from shim.distribution.keys import for_push
from shim.distribution.place import Place
from shim.distribution.pull import pull
from shim.distribution.push import push
from shim.distribution.transfer import PullOptions, PullTarget, PushOptions, Transfer
from shim.errors import Cancelled, ImageCorrupt, InvalidArgument, PermissionDenied, Unavailable
from shim.image.verify import verify
from shim.image.verify_cache import VerifyCache
from shim.model import Progress, Report, Verify
from tests.real.helpers_buckets import s3_server
from tests.s3_server import S3Server
from tests.unit.image_helpers import ProgressLog, fill, manifest, seal_at

MIB = 1 << 20
TAG = "v1"
ENV = "DB_PASSWORD=hunter2"


class Host:
    """Images below a folder, a key, and the server."""

    def __init__(self, root: Path, server: S3Server) -> None:
        self.root = root
        self.server = server
        self.key = self.key_file("key")

    def key_file(self, name: str) -> KeySources:
        """Make a key."""
        path = self.root / name
        path.write_text(os.urandom(32).hex())
        path.chmod(0o600)
        return KeySources(key_file=str(path))

    def image(self, name: str, pages: bytes) -> Path:
        """Make a sealed image with a secret in its environment."""
        folder = fill(self.root / name)
        (folder / "pages.img").write_bytes(pages)
        seal_at(folder, manifest(spec={"process": {"env": [ENV]}}))
        return folder

    def push(
        self,
        image: Path,
        keys: KeySources,
        report: Report | None = None,
        place: Place | None = None,
    ) -> Transfer:
        """Push an image."""
        options = PushOptions(cipher=for_push(keys))
        return push(image, place or self.server.bucket(), TAG, options, report or ProgressLog())

    def pull(
        self, name: str, keys: KeySources, place: Place | None = None, report: Report | None = None
    ) -> Transfer:
        """Pull it, and compare all of it with its manifest."""
        target = PullTarget(path_for=lambda _offer: self.root / name)
        place = place or self.server.bucket()
        done = pull(place, str(place), TAG, target, PullOptions(keys=keys), report or ProgressLog())
        verify(self.root / name, Verify.FULL, VerifyCache(self.root / "verified"), ProgressLog())
        return done

    def stored(self) -> dict[str, bytes]:
        """Return what the server has, by path."""
        files = (path for path in self.server.layout.rglob("*") if path.is_file())
        return {str(path.relative_to(self.server.layout)): path.read_bytes() for path in files}


class Watched:
    """A bucket that does something when some blobs were stored or read."""

    def __init__(self, bucket: Bucket, after: int, then: Callable[[], None]) -> None:
        self._bucket = bucket
        self._left = after
        self._then = then
        self._lock = threading.Lock()
        self.has_blob = bucket.has_blob
        self.put_document = bucket.put_document
        self.get_document = bucket.get_document
        self.close = bucket.close

    def put_blob(self, descriptor: Descriptor, content: IO[bytes]) -> None:
        """Store a blob."""
        self._count()
        self._bucket.put_blob(descriptor, content)

    def get_blob(self, descriptor: Descriptor) -> Iterator[bytes]:
        """Yield a blob."""
        self._count()
        return self._bucket.get_blob(descriptor)

    def _count(self) -> None:
        with self._lock:
            self._left -= 1
            if self._left == 0:
                self._then()


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    """Yield a host with a server of its own."""
    with s3_server(tmp_path / "s3") as server:
        yield Host(tmp_path, server)


@pytest.fixture(params=("plain", "encrypted"))
def keys(request: pytest.FixtureRequest, host: Host) -> KeySources:
    """Give no key, and a key."""
    return host.key if request.param == "encrypted" else KeySources()


def test_an_image_comes_back(host: Host, keys: KeySources) -> None:
    """With its holes; a second push moves nothing but the documents."""
    image = host.image("a", os.urandom(21 * MIB) + bytes(8 * MIB) + os.urandom(2 * MIB))

    first = host.push(image, keys)
    second = host.push(image, keys)
    host.pull("b", keys)

    assert first.digest == second.digest
    assert (first.bytes_reused, second.bytes_moved) == (0, 0)
    for name in ("cryo.json", "pages.img", "checkpoint.img"):
        assert (host.root / "b" / name).read_bytes() == (image / name).read_bytes()


def test_a_changed_image_moves_what_changed(host: Host, keys: KeySources) -> None:
    """Encrypted with the same key too."""
    pages = os.urandom(64 * MIB)
    host.push(host.image("a", pages), keys)
    changed = os.urandom(MIB) + pages[MIB:]

    moved = host.push(host.image("b", changed), keys)

    assert moved.bytes_reused > 40 * MIB
    assert moved.bytes_moved < 24 * MIB


def test_nothing_of_an_encrypted_image_is_in_clear(host: Host) -> None:
    """Neither the environment, nor the name of the task, nor a page."""
    pages = os.urandom(5 * MIB)
    host.push(host.image("a", pages), host.key)

    everything = b"".join(host.stored().values())

    for clear in (ENV.encode(), b'"t1"', b"process", pages[4096:4160], pages[-64:]):
        assert clear not in everything


def test_an_image_without_a_key_has_the_environment_in_clear(host: Host) -> None:
    """Which the push warns about, by the names."""
    log: list[Progress] = []
    host.push(host.image("a", os.urandom(MIB)), KeySources(), log.append)

    assert ENV.encode() in b"".join(host.stored().values())
    (warning,) = (one.message for one in log if one.warning)
    assert "DB_PASSWORD of t1" in warning
    assert "hunter2" not in warning


def test_a_wrong_or_missing_key_is_one_error_before_a_chunk_is_read(host: Host) -> None:
    """Nothing is left of the pull; the chunks are not even there."""
    host.push(host.image("a", os.urandom(9 * MIB)), host.key)
    for name, data in host.stored().items():
        if len(data) > MIB // 2:
            (host.server.layout / name).unlink()

    with pytest.raises(PermissionDenied, match="wrong is not the one that s3://"):
        host.pull("b", host.key_file("wrong"))
    with pytest.raises(InvalidArgument, match="encrypted with a key file, and none is given"):
        host.pull("b", KeySources())
    assert not (host.root / "b").exists()


def test_a_key_for_an_image_that_is_not_encrypted(host: Host) -> None:
    """The image could have been exchanged."""
    host.push(host.image("a", os.urandom(MIB)), KeySources())

    with pytest.raises(PermissionDenied, match="is not encrypted, although a key is given"):
        host.pull("b", host.key)


def test_a_push_that_was_killed_is_continued(host: Host, keys: KeySources) -> None:
    """The tag appears with the last document; what was stored is not sent again."""
    image = host.image("a", os.urandom(64 * MIB))

    with pytest.raises(Unavailable):
        host.push(image, keys, place=Watched(host.server.bucket(), 9, host.server.kill))
    host.server.start()
    assert "index.json" not in host.stored()
    again = host.push(image, keys)

    assert again.bytes_reused >= 4 * MIB
    host.pull("b", keys)


def test_a_pull_that_was_killed_is_continued(host: Host, keys: KeySources) -> None:
    """What was fetched is not fetched again."""
    image = host.image("a", os.urandom(64 * MIB))
    host.push(image, keys)

    with pytest.raises(Unavailable):
        host.pull("b", keys, Watched(host.server.bucket(), 9, host.server.kill))
    assert not (host.root / "b").exists()
    host.server.start()
    again = host.pull("b", keys)

    assert again.bytes_moved <= 60 * MIB


@pytest.mark.parametrize("pulls", (False, True), ids=("push", "pull"))
def test_a_transfer_is_cancelled_although_the_server_does_not_answer(
    host: Host, *, pulls: bool
) -> None:
    """Within seconds, and not at the deadline of a request; nothing has the final path."""
    image = host.image("a", os.urandom(16 * MIB))
    if pulls:
        host.push(image, host.key)
    paused = threading.Event()

    def pause() -> None:
        host.server.pause()
        paused.set()

    def cancel(_progress: Progress) -> None:
        if paused.is_set():
            message = "cancelled"
            raise Cancelled(message)

    place = Watched(host.server.bucket(HttpOptions()), 3, pause)

    def transfer() -> Transfer:
        if pulls:
            return host.pull("b", host.key, place, cancel)
        return host.push(image, host.key, cancel, place)

    with pytest.raises(Cancelled):
        transfer()
    assert not (host.root / "b").exists()


def test_chunks_of_an_encrypted_image_that_were_swapped_are_refused(host: Host) -> None:
    """By one who may write to the bucket: each is valid, and at another place of the file."""
    host.push(host.image("a", os.urandom(32 * MIB)), host.key)
    place = host.server.bucket()
    whole = _artifact(place)
    pages = [chunk for chunk in whole.chunks if chunk.file == "pages.img"]
    one, other = pages[0], pages[1]
    swapped = {one.offset: other.blob, other.offset: one.blob}
    chunks = tuple(
        msgspec.structs.replace(chunk, blob=swapped.get(chunk.offset, chunk.blob))
        if chunk.file == "pages.img"
        else chunk
        for chunk in whole.chunks
    )
    _store(place, msgspec.structs.replace(whole, chunks=chunks))

    with pytest.raises(ImageCorrupt):
        host.pull("b", host.key)
    assert not (host.root / "b").exists()


def test_a_config_of_another_image_is_refused(host: Host) -> None:
    """Both are encrypted with the same key, so only the hashes tell them apart."""
    host.push(host.image("a", os.urandom(4 * MIB)), host.key)
    place = host.server.bucket()
    first = _artifact(place)
    host.push(host.image("b", os.urandom(4 * MIB)), host.key)
    second = _artifact(place)
    _store(place, msgspec.structs.replace(second, config=first.config))

    with pytest.raises(ImageCorrupt):
        host.pull("c", host.key)
    assert not (host.root / "c").exists()


def _artifact(place: Bucket) -> artifact.Artifact:
    inner = artifact.manifest_in(place.get_document(TAG), "x")
    return artifact.decode(place.get_document(inner.digest), "x")


def _store(place: Bucket, whole: artifact.Artifact) -> None:
    document = artifact.encode(whole)
    place.put_document(document)
    place.put_document(artifact.wrap(document, whole.annotations), TAG)
