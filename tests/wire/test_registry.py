"""The client of registries against servers that answer well, wrongly or not at all."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from shim.distribution import artifact, media
from shim.distribution.place import Document
from shim.distribution.registry import Registry
from shim.distribution.retry import Passing
from shim.errors import (
    Cancelled,
    CryoError,
    DeadlineExceeded,
    FailedPrecondition,
    ImageCorrupt,
    InvalidArgument,
    NotFound,
    PermissionDenied,
    ResourceExhausted,
    Unavailable,
    Unimplemented,
)
from tests.certificates import Certificates
from tests.memory_registry import MemoryRegistry
from tests.sites import Answer, Broken, Endless, Hanging, Request, Site, reply
from tests.wire.helpers_registry import BLOB, OPTIONS, options, put, registry_at

MANIFEST = Document(media_type=media.MANIFEST, data=b'{"schemaVersion":2}')
# A request may take this long in all: what ends it is not a timeout between two bytes.
SHORT = options(connect_s=0.3, answer_s=0.2, least_bytes_per_s=1 << 40)


def says(answer: bytes) -> Answer:
    """Answer every request with the same bytes."""
    return lambda _: answer


def raises(error: Exception) -> Answer:
    """Break every request in the same way."""

    def answer(_: Request) -> bytes:
        raise error

    return answer


def test_documents_come_back_as_they_are() -> None:
    """A manifest is found by its tag and by its digest, with its media type."""
    with Site(MemoryRegistry()) as site, registry_at(site) as registry:
        index = artifact.wrap(MANIFEST, {})
        manifest = registry.put_document(MANIFEST)

        assert registry.put_document(index, "v1").media_type == media.INDEX
        assert registry.get_document("v1") == index
        assert registry.get_document(manifest.digest) == MANIFEST
        assert media.MANIFEST in site.requests[-1].headers["accept"]


def test_a_missing_document_is_not_found() -> None:
    """The error names the reference and has what the registry said."""
    with (
        Site(MemoryRegistry()) as site,
        registry_at(site) as registry,
        pytest.raises(NotFound, match=r"MANIFEST_UNKNOWN.*snap/llama:v1"),
    ):
        registry.get_document("v1")


@pytest.mark.parametrize(
    ("status", "body", "kind", "word"),
    (
        (401, b"", PermissionDenied, "docker login"),
        (403, b"", PermissionDenied, "docker login"),
        (404, b"", NotFound, "repository"),
        (405, b"", Unimplemented, "pushes"),
        (413, b"<html>", ResourceExhausted, "client_max_body_size"),
        (507, b"", ResourceExhausted, "space"),
        (400, b'{"errors":[{"code":"NAME_INVALID"}]}', InvalidArgument, "repository name"),
        (400, b'{"errors":[{"code":"MANIFEST_BLOB_UNKNOWN"}]}', FailedPrecondition, "push again"),
        (400, b"Client sent an HTTP request to an HTTPS server.", InvalidArgument, "--plain-http"),
        (418, b"[" * 10000, FailedPrecondition, "registry"),
        (200, b"", FailedPrecondition, "registry"),
    ),
)
def test_each_refusal_is_one_clear_error(
    status: int, body: bytes, kind: type[CryoError], word: str
) -> None:
    """It is not repeated, says what failed, and what can be done."""
    with Site(says(reply(status, body))) as site, registry_at(site) as registry:
        with pytest.raises(kind) as caught:
            registry.put_document(MANIFEST, "v1")

        assert type(caught.value) is kind
        assert str(status) in caught.value.message
        assert "snap/llama:v1" in caught.value.message
        assert word in caught.value.remedy
        assert len(site.requests) == 1


@pytest.mark.parametrize(
    ("status", "kind"),
    (
        (429, ResourceExhausted),
        (500, Unavailable),
        (502, Unavailable),
        (503, Unavailable),
        (504, Unavailable),
    ),
)
def test_what_passes_is_tried_again(status: int, kind: type[CryoError]) -> None:
    """A busy registry is asked again, as often as the options say."""
    with Site(says(reply(status))) as site, registry_at(site) as registry:
        with pytest.raises(kind, match=str(status)):
            registry.has_blob(BLOB)

        assert len(site.requests) == OPTIONS.attempts
        memory, answers = MemoryRegistry(), [reply(status), reply(status, Retry_After="0")]
        site.answer = lambda request: answers.pop() if answers else memory(request)
        assert not registry.has_blob(BLOB)


def test_a_registry_that_asks_for_too_long_a_wait_is_not_waited_for() -> None:
    """The error comes at once."""
    with (
        Site(says(reply(429, Retry_After="3600"))) as site,
        registry_at(site) as registry,
    ):
        with pytest.raises(ResourceExhausted, match="429"):
            registry.has_blob(BLOB)

        assert len(site.requests) == 1


@pytest.mark.parametrize("has_answered", (False, True))
def test_a_registry_that_does_not_run_is_unavailable(has_answered: bool) -> None:
    """One that never answered is not tried again; one that did may be starting again."""
    with socket.create_server(("127.0.0.1", 0)) as unused:
        host = f"127.0.0.1:{unused.getsockname()[1]}"
    with registry_at(host) as registry:
        registry._client._answered |= {host} if has_answered else set()
        with pytest.raises(Unavailable, match=f"{host} cannot be reached: Conn") as caught:
            registry.has_blob(BLOB)

    assert isinstance(caught.value.__cause__, Passing) is has_answered


def test_an_unknown_host_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """The name of the host cannot be resolved."""

    def fail(*_: object, **__: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", fail)
    with (
        registry_at("registry.invalid") as registry,
        pytest.raises(Unavailable, match="Name or service not known") as caught,
    ):
        registry.has_blob(BLOB)

    assert "DNS" in caught.value.remedy


@pytest.mark.parametrize(
    "answer",
    (
        raises(Broken(b"")),
        raises(Broken(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf")),
        raises(Broken(b"not HTTP at all\r\n\r\n")),
        raises(Broken(b"HTTP/1.1 200 OK\r\nX: " + b"x" * 100_000)),
        raises(Endless(b"HTTP/1.1 200 OK\r\n", b"X: " + b"x" * 1000 + b"\r\n")),
        says(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n"),
    ),
    ids=("nothing", "half", "not HTTP", "a huge header", "endless headers", "bad chunks"),
)
def test_an_answer_that_is_not_one_is_unavailable(answer: Answer) -> None:
    """The connection broke, or what arrived is not HTTP; it is tried again, with an end."""
    with Site(answer) as site, registry_at(site) as registry:
        with pytest.raises(Unavailable, match="broke the connection"):
            registry.get_document("v1")

        assert len(site.requests) == OPTIONS.attempts


@pytest.mark.parametrize(
    "answer",
    (
        raises(Hanging()),
        raises(Hanging(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf")),
        raises(Endless(b"HTTP/1.1 200 OK\r\nX: ", b"x", every_s=0.05)),
        raises(Endless(b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 100 Continue\r\n\r\n", 0.05)),
        raises(Endless(b"HTTP/1.1 200 OK\r\nContent-Length: 9999\r\n\r\n", b"x", every_s=0.05)),
    ),
    ids=("no answer", "half a body", "a slow header", "endless 100", "a slow body"),
)
def test_a_registry_that_hangs_exceeds_the_deadline(answer: Answer) -> None:
    """Also one that sends a byte now and then, so that no read ever times out."""
    with (
        Site(answer) as site,
        registry_at(site, SHORT) as registry,
        pytest.raises(DeadlineExceeded, match="does not answer"),
    ):
        registry.get_document("v1")


def test_closing_ends_what_hangs() -> None:
    """Another thread closes the place while a request waits."""
    failures: list[BaseException] = []
    with Site(raises(Hanging())) as site, registry_at(site) as registry:

        def look() -> None:
            try:
                registry.has_blob(BLOB)
            except Cancelled as cancelled:
                failures.append(cancelled)

        thread = threading.Thread(target=look)
        thread.start()
        assert site.hung.wait(30)
        registry.close()
        thread.join(30)

        assert not thread.is_alive()
        assert len(failures) == 1
        with pytest.raises(Cancelled):
            registry.has_blob(BLOB)


@pytest.mark.parametrize(
    "answer",
    (
        says(reply(200, Content_Length=artifact.MAX_DOCUMENT_BYTES + 1)),
        raises(
            Endless(
                b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
                b"10000\r\n" + b"x" * 0x10000 + b"\r\n",
            )
        ),
        raises(Endless(b"HTTP/1.0 200 OK\r\n\r\n", b"x" * 0x10000)),
    ),
    ids=("announced", "chunked", "until the end"),
)
def test_a_document_without_end_is_refused(answer: Answer) -> None:
    """Its size is limited before and while it is read."""
    with (
        Site(answer) as site,
        registry_at(site) as registry,
        pytest.raises(ImageCorrupt, match="more than 4194304 bytes"),
    ):
        registry.get_document("v1")


def test_a_document_of_another_digest_is_refused() -> None:
    """What the registry says of the digest does not matter."""
    digest = artifact.describe(MANIFEST).digest
    answer = says(reply(200, b'{"schemaVersion":3}', Docker_Content_Digest=digest))
    with (
        Site(answer) as site,
        registry_at(site) as registry,
        pytest.raises(ImageCorrupt, match="another content"),
    ):
        registry.get_document(digest)


def test_redirects_have_an_end() -> None:
    """A registry that redirects to itself forever is not followed forever."""
    with (
        Site(says(reply(307, Location="/again"))) as site,
        registry_at(site) as registry,
        pytest.raises(Unavailable, match="redirects without end"),
    ):
        registry.get_document("v1")


@pytest.mark.parametrize(
    "location",
    (
        "",
        "file:///etc/passwd",
        "http://user:secret@127.0.0.1/",
        "http://[",
        "http://h\x7f/",
        "//:0",
    ),
)
def test_a_redirect_to_no_server_is_refused(location: str) -> None:
    """It must be HTTP, with a host, and without a user."""
    with (
        Site(says(reply(307, Location=location))) as site,
        registry_at(site) as registry,
        pytest.raises(Unavailable) as caught,
    ):
        registry.get_document("v1")

    assert "secret" not in caught.value.message


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    """Make a CA and a server's certificate."""
    return Certificates(tmp_path_factory.mktemp("certificates"))


def test_a_registry_with_its_own_ca_is_used(certificates: Certificates) -> None:
    """With --ca-file its certificate is trusted."""
    with (
        Site(MemoryRegistry(), certificates.context()) as site,
        registry_at(site, options(ca_file=str(certificates.ca))) as registry,
    ):
        assert b"".join(registry.get_blob(put(registry))) != b""


def _fails_by_tls(use: Callable[[Registry], object], site: Site, ca: Path) -> CryoError:
    with (
        registry_at(site, options(ca_file=str(ca))) as registry,
        pytest.raises(CryoError) as caught,
    ):
        use(registry)
    return caught.value


def test_an_unknown_certificate_is_refused(certificates: Certificates, tmp_path: Path) -> None:
    """The remedy is the certificate of its CA."""
    other = Certificates(tmp_path)
    with Site(MemoryRegistry(), certificates.context()) as site:
        error = _fails_by_tls(put, site, other.ca)

    assert isinstance(error, Unavailable)
    assert "certificate" in error.message
    assert "--ca-file" in error.remedy


def test_a_registry_without_tls_needs_the_option(certificates: Certificates) -> None:
    """The remedy is --plain-http."""
    with Site(raises(Broken(b"HTTP/1.1 400 X\r\n\r\n"))) as site:
        error = _fails_by_tls(put, site, certificates.ca)

    assert isinstance(error, Unavailable)
    assert "--plain-http" in error.remedy


def test_no_redirect_leads_from_https_to_http(certificates: Certificates) -> None:
    """What TLS protects is not asked for without it."""
    with (
        Site(MemoryRegistry()) as plain,
        Site(says(reply(307, Location=f"{plain.url}/x")), certificates.context()) as site,
    ):
        error = _fails_by_tls(lambda registry: registry.get_document("v1"), site, certificates.ca)

    assert isinstance(error, PermissionDenied)
    assert plain.requests == []


def test_a_file_without_a_certificate_is_named(tmp_path: Path) -> None:
    """It is read before anything is sent."""
    path = tmp_path / "ca.pem"
    path.write_text("no certificate")

    with (
        pytest.raises(InvalidArgument, match=str(path)),
        registry_at("registry.invalid", options(ca_file=str(path))),
    ):
        pass
