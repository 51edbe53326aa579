"""Blobs to and from registries: where uploads go, and what happens when a transfer breaks."""

from __future__ import annotations

import io

import pytest

from shim.distribution.blob import Descriptor
from shim.errors import Cancelled, CryoError, ImageCorrupt, ResourceExhausted, Unavailable
from tests.memory_registry import MemoryRegistry
from tests.sites import Answer, Broken, Endless, Request, Site, reply
from tests.wire.helpers_registry import BLOB, CONTENT, OPTIONS, described, put, registry_at

HALF = len(CONTENT) // 2


def test_a_blob_comes_back_as_it_was() -> None:
    """It is there after it was put, and not before; an empty one too."""
    with Site(MemoryRegistry()) as site, registry_at(site) as registry:
        assert not registry.has_blob(BLOB)
        put(registry)

        assert registry.has_blob(BLOB)
        assert b"".join(registry.get_blob(BLOB)) == CONTENT
        assert list(registry.get_blob(put(registry, b""))) == []


def test_a_blob_of_another_size_is_not_there() -> None:
    """A registry that has something else under this digest gets the blob again."""
    memory = MemoryRegistry()
    memory.blobs[BLOB.digest] = b"short"

    with Site(memory) as site, registry_at(site) as registry:
        assert not registry.has_blob(BLOB)


def test_one_connection_serves_many_requests() -> None:
    """What was read to its end is used again."""
    with Site(MemoryRegistry()) as site, registry_at(site) as registry:
        for _ in range(3):
            put(registry)
            b"".join(registry.get_blob(BLOB))

        assert len(site._threads) == 2  # one accepts


def test_an_upload_goes_where_the_registry_says() -> None:
    """Also to another host, which gets no credentials."""
    memory = MemoryRegistry()
    with Site(memory) as storage, Site(memory) as site, registry_at(site) as registry:
        memory.uploads = f"{storage.url}/v2/any/blobs/uploads/"
        put(registry)

        assert site.methods() == ["POST"]
        assert storage.methods() == ["PUT"]
        assert storage.requests[0].target.endswith(f"?_state=x&digest=sha256%3A{BLOB.digest[7:]}")
        assert memory.blobs == {BLOB.digest: CONTENT}


def test_a_broken_upload_begins_again() -> None:
    """The whole blob is sent in a new session."""
    memory = MemoryRegistry()
    broken = ["once"]

    def answer(request: Request) -> bytes | None:
        if request.method == "PUT" and broken:
            broken.pop()
            return None
        return memory(request)

    with Site(answer) as site, registry_at(site) as registry:
        put(registry)

        assert site.methods() == ["POST", "PUT", "POST", "PUT"]
        assert memory.blobs == {BLOB.digest: CONTENT}


@pytest.mark.parametrize(
    ("refusal", "kind", "attempts"),
    (
        (reply(503), Unavailable, OPTIONS.attempts),
        (None, Unavailable, OPTIONS.attempts),
        (reply(413), ResourceExhausted, 1),
    ),
)
def test_an_upload_that_always_fails_is_one_error(
    refusal: bytes | None, kind: type[CryoError], attempts: int
) -> None:
    """It is repeated only where that may help."""
    memory = MemoryRegistry()

    def answer(request: Request) -> bytes | None:
        return refusal if request.method == "PUT" else memory(request)

    with Site(answer) as site, registry_at(site) as registry:
        with pytest.raises(kind, match=BLOB.digest):
            put(registry)

        assert site.methods().count("PUT") == attempts


class Failing(io.BytesIO):
    """Content that cannot be read to its end."""

    error: Exception = Cancelled("cancelled")

    def read(self, size: int | None = -1, /) -> bytes:
        """Fail in the second half."""
        if self.tell() >= HALF:
            raise self.error
        return super().read(size)


@pytest.mark.parametrize(
    ("error", "kind"), ((Cancelled("cancelled"), Cancelled), (OSError(5, "I/O error"), CryoError))
)
def test_an_upload_that_ends_here_removes_its_session(
    error: Exception, kind: type[CryoError]
) -> None:
    """Content that fails is not taken for a connection that breaks: nothing is repeated."""
    memory = MemoryRegistry()
    content = Failing(CONTENT)
    content.error = error

    with Site(memory) as site, registry_at(site) as registry:
        with pytest.raises(kind) as caught:
            registry.put_blob(BLOB, content)

        assert not isinstance(caught.value, Unavailable)
        assert site.methods() == ["POST", "DELETE"]
        assert memory.sessions == set()


def test_content_that_became_shorter_is_an_error() -> None:
    """The registry would wait for the rest."""
    with (
        Site(MemoryRegistry()) as site,
        registry_at(site) as registry,
        pytest.raises(ImageCorrupt, match="bytes are missing"),
    ):
        registry.put_blob(BLOB, io.BytesIO(CONTENT[:HALF]))


def test_content_of_another_digest_is_refused_by_the_registry() -> None:
    """The image changed since its digest was computed."""
    with (
        Site(MemoryRegistry()) as site,
        registry_at(site) as registry,
        pytest.raises(ImageCorrupt, match="DIGEST_INVALID"),
    ):
        registry.put_blob(BLOB, io.BytesIO(b"x" * len(CONTENT)))


def breaking(memory: MemoryRegistry, times: int, *, ranges: bool = True) -> Answer:
    """Break the first answers with a blob in their middle; without `ranges` send all of it."""
    left = list(range(times))

    def answer(request: Request) -> bytes | None:
        if not ranges:
            request.headers.pop("range", None)
        whole = memory(request)
        if request.method == "GET" and left:
            left.pop()
            raise Broken(whole[: len(whole) // 2])
        return whole

    return answer


@pytest.mark.parametrize("ranges", (True, False), ids=("ranges", "no ranges"))
def test_a_broken_download_goes_on(ranges: bool) -> None:
    """More often than a request is tried, as long as each attempt brings something."""
    memory = MemoryRegistry()
    memory.blobs[BLOB.digest] = CONTENT
    times = 2 if ranges else 1

    with Site(breaking(memory, times, ranges=ranges)) as site, registry_at(site) as registry:
        assert b"".join(registry.get_blob(BLOB)) == CONTENT
        assert len(site.requests) == times + 1
        assert site.requests[1].headers.get("range", "none") != ("none" if ranges else "some")


def test_a_download_that_brings_nothing_more_has_an_end() -> None:
    """A registry that ends half way each time is one clear error."""
    half = reply(200, CONTENT[: len(CONTENT) // 4], Content_Length=len(CONTENT))

    def answer(request: Request) -> bytes:
        raise Broken(half if "range" not in request.headers else b"")

    with Site(answer) as site, registry_at(site) as registry:
        with pytest.raises(Unavailable, match=f"cannot pull {BLOB.digest}"):
            list(registry.get_blob(BLOB))

        assert len(site.requests) == 1 + OPTIONS.attempts - 1


@pytest.mark.parametrize(
    ("answer", "why"),
    (
        (lambda _: reply(200, CONTENT + b"x"), "1048577 bytes"),
        (lambda _: reply(200, CONTENT[:-1]), "1048575 bytes"),
        (lambda _: reply(200, CONTENT[:-1] + b"x"), "another content"),
        (lambda _: reply(206, CONTENT, Content_Range="bytes 5-9/10"), "another part"),
        (lambda _: reply(206, CONTENT), "another part"),
    ),
    ids=("more", "fewer", "others", "another range", "no range"),
)
def test_a_blob_that_is_another_is_refused(answer: Answer, why: str) -> None:
    """Its size and digest are those of the descriptor, or there is an error."""
    with Site(answer) as site, registry_at(site) as registry:
        with pytest.raises(ImageCorrupt, match=why):
            list(registry.get_blob(BLOB))

        assert len(site.requests) == 1


def test_a_blob_without_end_is_refused() -> None:
    """What is beyond its size is not read."""

    def answer(_: Request) -> bytes:
        raise Endless(b"HTTP/1.0 200 OK\r\n\r\n", b"x" * 65536)

    with (
        Site(answer) as site,
        registry_at(site) as registry,
        pytest.raises(ImageCorrupt, match="more than 1048576 bytes"),
    ):
        list(registry.get_blob(BLOB))


def test_a_blob_that_ends_early_without_a_length_is_refused() -> None:
    """Where no length is announced, the descriptor's counts."""

    def answer(_: Request) -> bytes:
        raise Broken(b"HTTP/1.0 200 OK\r\n\r\n" + CONTENT[:HALF])

    with (
        Site(answer) as site,
        registry_at(site) as registry,
        pytest.raises(ImageCorrupt, match=f"{HALF} bytes and not"),
    ):
        list(registry.get_blob(BLOB))


def test_a_download_that_is_left_can_be_begun_again() -> None:
    """Its connection is closed, and the next download has its own."""
    memory = MemoryRegistry()
    large: Descriptor = described(CONTENT * 4)
    memory.blobs[large.digest] = CONTENT * 4

    with Site(memory) as site, registry_at(site) as registry:
        pieces = registry.get_blob(large)
        next(pieces)
        pieces.close()  # type: ignore[attr-defined] # it is a generator

        assert b"".join(registry.get_blob(large)) == CONTENT * 4
