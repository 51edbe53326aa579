"""Buckets of a real S3 server: what is stored comes back, and each failure is one clear error."""

from __future__ import annotations

import io
import json
import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from shim.distribution import media
from shim.distribution.blob import Descriptor, digest_of
from shim.distribution.bucket import Bucket
from shim.distribution.http_options import HttpOptions
from shim.distribution.place import Document
from shim.distribution.s3_objects import PART_BYTES
from shim.errors import (
    Cancelled,
    CryoError,
    DeadlineExceeded,
    ImageCorrupt,
    InvalidArgument,
    NotFound,
    PermissionDenied,
    Unavailable,
)
from tests.real.helpers_buckets import s3_server
from tests.s3_server import SECRET, S3Server

LARGE_BYTES = 2 * PART_BYTES + 12345
DOCUMENT = Document(media_type=media.INDEX, data=b'{"mediaType":"%b"}' % media.INDEX.encode())


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """Yield the server that most tests share; each uses a prefix of its own."""
    with s3_server(tmp_path_factory.mktemp("s3")) as started:
        yield started


@pytest.fixture
def server(tmp_path: Path) -> Iterator[S3Server]:
    """Yield a server for one test, which may stop it or change its files."""
    with s3_server(tmp_path) as started:
        yield started


@pytest.fixture
def bucket(running: S3Server, request: pytest.FixtureRequest) -> Bucket:
    """Return an empty prefix."""
    return running.bucket(prefix=f"tests/{request.node.name.replace('[', '/').rstrip(']')}")


@pytest.fixture
def place(server: S3Server) -> Bucket:
    """Return the usual prefix of the server for one test."""
    return server.bucket()


def blob(data: bytes) -> Descriptor:
    """Describe a blob."""
    return Descriptor(media_type=media.CHUNK, digest=digest_of(data), size=len(data))


def put(place: Bucket, data: bytes) -> Descriptor:
    """Store a blob."""
    described = blob(data)
    place.put_blob(described, io.BytesIO(data))
    return described


def document(number: int) -> Document:
    """Make a document that differs from others."""
    plain = {"mediaType": media.INDEX, "annotations": {"n": str(number)}}
    return Document(media_type=media.INDEX, data=json.dumps(plain).encode())


@pytest.mark.parametrize("size", (0, 1, PART_BYTES, PART_BYTES + 1, LARGE_BYTES))
def test_a_blob_comes_back_as_it_was(bucket: Bucket, size: int) -> None:
    """By one request, or by several; and again when it is there already."""
    data = os.urandom(size)
    assert not bucket.has_blob(blob(data))

    for _ in range(2):
        put(bucket, data)

    assert bucket.has_blob(blob(data))
    assert b"".join(bucket.get_blob(blob(data))) == data


def test_a_document_has_a_tag_and_a_digest(bucket: Bucket) -> None:
    """A tag that is given to another document leaves the first one, and other tags stay."""
    first = bucket.put_document(document(1), "one")
    bucket.put_document(document(2), "two")
    bucket.put_document(document(3), "one")

    assert bucket.get_document("one") == document(3)
    assert bucket.get_document("two") == document(2)
    assert bucket.get_document(first.digest) == document(1)


def test_what_is_not_there_is_named(bucket: Bucket) -> None:
    """In a prefix that has nothing, and in one that has something else."""
    for _ in range(2):
        with pytest.raises(NotFound, match="tag absent"):
            bucket.get_document("absent")
        with pytest.raises(NotFound):
            bucket.get_document(blob(b"absent").digest)
        with pytest.raises(NotFound):
            b"".join(bucket.get_blob(blob(b"absent")))
        bucket.put_document(DOCUMENT, "there")


def test_prefixes_share_nothing(running: S3Server, bucket: Bucket) -> None:
    """Neither blobs nor tags."""
    other = running.bucket(prefix="tests/test_prefixes")
    described = put(bucket, b"blob")
    bucket.put_document(DOCUMENT, "v1")

    assert not other.has_blob(described)
    with pytest.raises(NotFound):
        other.get_document("v1")


def test_it_is_an_oci_layout(server: S3Server, place: Bucket) -> None:
    """Other tools can read a copy of the prefix."""
    put(place, b"data")
    place.put_document(DOCUMENT, "v1")

    files = {str(path.relative_to(server.layout)) for path in server.layout.rglob("*")}
    index = json.loads((server.layout / "index.json").read_text())

    assert json.loads((server.layout / "oci-layout").read_text()) == {"imageLayoutVersion": "1.0.0"}
    blobs = {digest_of(data).replace(":", "/") for data in (b"data", DOCUMENT.data)}
    assert files == {
        "oci-layout",
        "index.json",
        "blobs",
        "blobs/sha256",
        *(f"blobs/{one}" for one in blobs),
    }
    assert [one["annotations"][media.TAG] for one in index["manifests"]] == ["v1"]


def test_pushes_at_once_lose_no_tag(running: S3Server, bucket: Bucket) -> None:
    """Of several clients that write the first tags of a prefix together."""
    number = 8
    clients = [running.bucket(prefix="tests/at-once") for _ in range(number)]
    together = threading.Barrier(number)

    def push(at: int) -> None:
        together.wait(60)
        for turn in range(3):
            clients[at].put_document(document(at), f"v{at}.{turn}")

    with ThreadPoolExecutor(number) as threads:
        list(threads.map(push, range(number)))

    for at in range(number):
        for turn in range(3):
            assert clients[0].get_document(f"v{at}.{turn}") == document(at)


@pytest.mark.parametrize("size", (1000, LARGE_BYTES))
def test_other_bytes_than_described_are_not_stored(
    bucket: Bucket, tmp_path: Path, size: int
) -> None:
    """A file that changes while it is pushed is noticed; the blob does not exist afterwards."""
    data = os.urandom(size)
    described = blob(data)

    for other in (data[:-1] + bytes([data[-1] ^ 1]), data[:-1], data + b"x"):
        (tmp_path / "changed").write_bytes(other)
        with (tmp_path / "changed").open("rb") as content, pytest.raises(ImageCorrupt):
            bucket.put_blob(described, content)
        assert not bucket.has_blob(described)


@pytest.mark.parametrize("size", (1000, LARGE_BYTES))
@pytest.mark.parametrize(
    "change",
    (
        lambda data: data[:-1] + bytes([data[-1] ^ 1]),
        lambda data: data[: len(data) // 2],
        lambda data: data + b"x",
        lambda _data: b"",
    ),
    ids=("flipped", "truncated", "extended", "emptied"),
)
def test_a_blob_that_was_changed_is_refused(
    server: S3Server, place: Bucket, size: int, change: Callable[[bytes], bytes]
) -> None:
    """At the latest after its last piece."""
    described = put(place, os.urandom(size))
    path = server.layout / "blobs" / described.digest.replace(":", "/")
    path.write_bytes(change(path.read_bytes()))

    with pytest.raises(ImageCorrupt):
        b"".join(place.get_blob(described))


@pytest.mark.parametrize(
    "index",
    (
        b"",
        b"[]",
        b"nonsense",
        b"[" * 100_000,
        b'{"manifests":[]}' + b" " * (5 << 20),
        b'{"manifests":[{"annotations":{"org.opencontainers.image.ref.name":"v1"}}]}',
    ),
    ids=("empty", "list", "nonsense", "deep", "large", "incomplete"),
)
def test_an_index_that_was_changed_is_refused(
    server: S3Server, place: Bucket, index: bytes
) -> None:
    """Also by a push, which does not replace it."""
    place.put_document(DOCUMENT, "v1")
    (server.layout / "index.json").write_bytes(index)

    with pytest.raises(ImageCorrupt):
        place.get_document("v1")


def test_a_document_that_was_changed_is_refused(server: S3Server, place: Bucket) -> None:
    """It is another one, whatever its tag."""
    described = place.put_document(DOCUMENT, "v1")
    path = server.layout / "blobs" / described.digest.replace(":", "/")
    path.write_bytes(document(2).data)

    for name in ("v1", described.digest):
        with pytest.raises(ImageCorrupt, match="was changed"):
            place.get_document(name)


@pytest.mark.parametrize(
    ("settings", "kind", "remedy"),
    (
        ({"AWS_SECRET_ACCESS_KEY": "wrong"}, PermissionDenied, "AWS_SECRET_ACCESS_KEY"),
        ({"AWS_ACCESS_KEY_ID": "wrong"}, PermissionDenied, "AWS_ACCESS_KEY_ID"),
        ({"AWS_SESSION_TOKEN": "wrong"}, PermissionDenied, "AWS_SESSION_TOKEN"),
        ({"AWS_REGION": "eu-west-1"}, InvalidArgument, "AWS_REGION"),
        ({"AWS_ENDPOINT_URL": "http://127.0.0.1:1"}, Unavailable, "AWS_ENDPOINT_URL"),
        ({"AWS_ENDPOINT_URL": "http://x.invalid"}, Unavailable, "AWS_ENDPOINT_URL"),
    ),
)
def test_wrong_settings_are_one_clear_error(
    running: S3Server, settings: dict[str, str], kind: type[CryoError], remedy: str
) -> None:
    """Of a push and of a pull, with the variable in the remedy; no secret is shown."""
    wrong = running.bucket(settings=settings)

    for work in (lambda: put(wrong, b"data"), lambda: wrong.get_document("v1")):
        with pytest.raises(kind) as caught:
            work()
        assert remedy in caught.value.remedy
        assert "\n" not in caught.value.message
        for secret in (SECRET, "Signature", "wrong"):
            assert secret not in caught.value.message.replace("SignatureDoesNotMatch", "")


def test_a_bucket_that_does_not_exist_is_named(running: S3Server) -> None:
    """And not taken for a prefix without images."""
    absent = running.bucket(name="absent")

    for work in (lambda: put(absent, b"data"), lambda: absent.get_document("v1")):
        with pytest.raises(NotFound, match=r"s3://absent/.*NoSuchBucket"):
            work()


class Slow(io.BytesIO):
    """Content that does something after its first pieces."""

    def __init__(self, data: bytes, then: Callable[[], None]) -> None:
        super().__init__(data)
        self._then = then

    def read(self, size: int | None = -1, /) -> bytes:
        """Return the next piece."""
        if self.tell() > PART_BYTES:
            self._then()
        return super().read(size)


def test_a_server_that_is_killed_while_it_stores(server: S3Server, place: Bucket) -> None:
    """One clear error, no blob of that name; the next push stores it."""
    data = os.urandom(LARGE_BYTES)
    place.put_document(DOCUMENT, "v1")

    with pytest.raises(Unavailable, match=r"cannot store a blob"):
        place.put_blob(blob(data), Slow(data, server.kill))

    server.start()
    assert not place.has_blob(blob(data))
    assert b"".join(place.get_blob(put(place, data))) == data


def test_a_server_that_is_killed_while_it_is_read(server: S3Server, place: Bucket) -> None:
    """One clear error, after the pieces that came."""
    described = put(place, os.urandom(LARGE_BYTES))
    reading = place.get_blob(described)
    next(reading)
    server.kill()

    with pytest.raises(Unavailable, match="cannot read a blob"):
        list(reading)


def test_a_server_that_does_not_answer(server: S3Server) -> None:
    """It is waited for as long as the options say."""
    impatient = HttpOptions(
        plain_http=True, answer_s=0.2, connect_s=0.2, attempts=2, least_bytes_per_s=PART_BYTES * 10
    )
    place = server.bucket(impatient)
    server.pause()

    with pytest.raises(DeadlineExceeded):
        put(place, b"data")


def test_close_ends_what_is_under_way(server: S3Server) -> None:
    """Although the server does not answer, and the options have patience."""
    place = server.bucket(HttpOptions(plain_http=True))
    server.pause()
    begun = threading.Event()

    def store() -> None:
        begun.set()
        put(place, b"data")

    with ThreadPoolExecutor(1) as thread:
        future = thread.submit(store)
        begun.wait(60)
        place.close()
        with pytest.raises(Cancelled):
            future.result(60)
    with pytest.raises(Cancelled):
        put(place, b"data")
    place.close()


def test_the_environment_of_this_process_is_not_mixed_in(
    running: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The sidecar may have other credentials and another endpoint than a client gives."""
    for name, text in (
        ("AWS_ACCESS_KEY_ID", "other"),
        ("AWS_SECRET_ACCESS_KEY", "other"),
        ("AWS_SESSION_TOKEN", "other"),
        ("AWS_ENDPOINT_URL", "http://127.0.0.1:1"),
        ("AWS_ENDPOINT_URL_S3", "http://127.0.0.1:1"),
        ("AWS_SKIP_SIGNATURE", "true"),
        ("AWS_VIRTUAL_HOSTED_STYLE_REQUEST", "true"),
        ("AWS_REGION", "other"),
    ):
        monkeypatch.setenv(name, text)
    place = running.bucket(prefix="tests/environment")

    assert b"".join(place.get_blob(put(place, b"data"))) == b"data"


def test_a_server_without_tls_is_recognised(running: S3Server) -> None:
    """The remedy is the option."""
    url = running.settings["AWS_ENDPOINT_URL"].replace("http:", "https:")
    place = running.bucket(settings={"AWS_ENDPOINT_URL": url})

    with pytest.raises(Unavailable, match="does not use TLS") as caught:
        place.get_document("v1")
    assert "--plain-http" in caught.value.remedy
