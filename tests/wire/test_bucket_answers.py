"""What an S3-compatible store may answer: each kind of failure is one clear error."""

from __future__ import annotations

import io
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from shim.distribution import media
from shim.distribution.blob import Descriptor, digest_of
from shim.distribution.bucket import Bucket
from shim.distribution.http_options import HttpOptions
from shim.distribution.place import Document
from shim.distribution.reference import BucketRef
from shim.errors import (
    Busy,
    CryoError,
    DeadlineExceeded,
    FailedPrecondition,
    ImageCorrupt,
    InvalidArgument,
    NotFound,
    PermissionDenied,
    ResourceExhausted,
    Unavailable,
)

ATTEMPTS = 3
OPTIONS = HttpOptions(
    plain_http=True, connect_s=5, answer_s=5, attempts=ATTEMPTS, backoff_s=0.01, patience_s=5
)
DATA = b"some data"
BLOB = Descriptor(media_type=media.CHUNK, digest=digest_of(DATA), size=len(DATA))
SECRET = "secret-of-the-test"  # noqa: S105 - it is none
HEADERS = {"ETag": '"x"', "Last-Modified": "Mon, 01 Jan 2024 00:00:00 GMT"}

Answer = Callable[[BaseHTTPRequestHandler, bytes], None]


class Store(ThreadingHTTPServer):
    """Answers all requests in the same way, and counts them."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.answer: Answer = status(200)
        self.paths: list[str] = []


class Handler(BaseHTTPRequestHandler):
    """Reads a request, and answers as the store says."""

    protocol_version = "HTTP/1.1"
    server: Store

    def log_message(self, *args: object) -> None:
        """Print nothing."""

    def do_GET(self) -> None:
        """Answer a request."""
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.server.paths.append(f"{self.command} {self.path}")
        self.server.answer(self, body)


for _method in ("PUT", "HEAD", "POST", "DELETE"):
    setattr(Handler, f"do_{_method}", Handler.do_GET)


def status(number: int, code: str = "", body: bytes = b"") -> Answer:
    """Answer with a status and the code of S3, or another body."""
    whole = body or (b"<Error><Code>%b</Code></Error>" % code.encode() if code else b"")

    def answer(handler: BaseHTTPRequestHandler, _body: bytes) -> None:
        handler.send_response(number)
        handler.send_header("Content-Length", str(len(whole)))
        for name, text in HEADERS.items():
            handler.send_header(name, text)
        handler.end_headers()
        if handler.command != "HEAD":
            handler.wfile.write(whole)

    return answer


def dropped(handler: BaseHTTPRequestHandler, _body: bytes) -> None:
    """Close the connection in place of an answer."""
    handler.close_connection = True


def cut(handler: BaseHTTPRequestHandler, _body: bytes) -> None:
    """Close the connection in the middle of an answer."""
    handler.send_response(206)
    handler.send_header("Content-Length", str(len(DATA)))
    handler.send_header("Content-Range", f"bytes 0-{len(DATA) - 1}/{len(DATA)}")
    for name, text in HEADERS.items():
        handler.send_header(name, text)
    handler.end_headers()
    handler.wfile.write(DATA[:3])
    handler.close_connection = True


@pytest.fixture
def store() -> Iterator[Store]:
    """Yield a store on a port of its own."""
    with Store() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def place(store: Store) -> Iterator[Bucket]:
    """Yield a client of it."""
    settings = {
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{store.server_address[1]}",
        "HOME": "/nonexistent",
    }
    made = Bucket(BucketRef(bucket="images", prefix="a/latest"), settings, OPTIONS)
    yield made
    made.close()


def put(place: Bucket) -> None:
    """Store a blob."""
    place.put_blob(BLOB, io.BytesIO(DATA))


@pytest.mark.parametrize(
    ("answer", "kind", "remedy", "requests"),
    (
        ("403 AccessDenied", PermissionDenied, "s3:PutObject", 1),
        ("403 InvalidAccessKeyId", PermissionDenied, "AWS_ACCESS_KEY_ID", 1),
        ("403 SignatureDoesNotMatch", PermissionDenied, "AWS_SECRET_ACCESS_KEY", 1),
        ("400 ExpiredToken", PermissionDenied, "renew AWS_SESSION_TOKEN", 1),
        ("403 ExpiredToken", PermissionDenied, "renew AWS_SESSION_TOKEN", 1),
        ("403 RequestTimeTooSkewed", PermissionDenied, "clock", 1),
        ("401", PermissionDenied, "AWS_ACCESS_KEY_ID", 1),
        ("403", PermissionDenied, "s3:PutObject", 1),
        ("404 NoSuchBucket", NotFound, "make the bucket", 1),
        ("301 PermanentRedirect", InvalidArgument, "AWS_REGION", 1),
        ("429 TooManyRequests", ResourceExhausted, "fewer --jobs", ATTEMPTS),
        ("429", ResourceExhausted, "fewer --jobs", ATTEMPTS),
        ("503 SlowDown", ResourceExhausted, "fewer --jobs", ATTEMPTS),
        ("503", Unavailable, "later", ATTEMPTS),
        ("500 InternalError", Unavailable, "later", ATTEMPTS),
        ("507", ResourceExhausted, "free some space", ATTEMPTS),
        ("400 Peculiar", FailedPrecondition, "log", 1),
        ("400 Unknown", FailedPrecondition, "log", 1),
        ("dropped", Unavailable, "later", ATTEMPTS),
    ),
)
def test_a_failed_request(
    store: Store, place: Bucket, answer: str, kind: type[CryoError], remedy: str, requests: int
) -> None:
    """What passes is repeated; the message has one line, the reason and no secret."""
    number, _, code = answer.partition(" ")
    store.answer = status(int(number), code) if number != "dropped" else dropped

    with pytest.raises(CryoError) as caught:
        put(place)

    assert (type(caught.value), len(store.paths)) == (kind, requests)
    assert remedy in caught.value.remedy
    assert caught.value.message.startswith("s3://images/a/latest: cannot store oci-layout")
    assert len(caught.value.message) < 200
    assert "\n" not in caught.value.message
    assert SECRET not in caught.value.message


class Memory:
    """Objects by their path, in a store that ignores some conditions, or refuses them."""

    def __init__(self, kind: str) -> None:
        self.objects: dict[str, bytes] = {}
        self._kind = kind

    def __call__(self, handler: BaseHTTPRequestHandler, body: bytes) -> None:
        """Answer a request."""
        path = handler.path.partition("/images/a/latest/")[2]
        conditions = {"If-None-Match", "If-Match"} & set(handler.headers)
        if handler.command == "PUT" and conditions and self._kind == "refuses":
            status(501, "NotImplemented")(handler, body)
        elif "If-None-Match" in conditions and self._kind == "has-one" and path in self.objects:
            status(412, "PreconditionFailed")(handler, body)
        elif handler.command == "PUT":
            self.objects[path] = body
            status(200)(handler, body)
        elif path in self.objects:
            status(200, body=self.objects[path])(handler, body)
        else:
            status(404, "NoSuchKey")(handler, body)


@pytest.mark.parametrize("kind", ("ignores", "refuses", "has-one"))
@pytest.mark.parametrize("marker", (False, True), ids=("new", "used"))
def test_a_store_without_conditions_has_an_object_for_each_tag(
    store: Store, place: Bucket, kind: str, *, marker: bool
) -> None:
    """So that two pushes at once lose none; there is no index to replace."""
    memory = store.answer = Memory(kind)
    memory.objects = {"oci-layout": b"{}"} if marker else {}
    documents = {
        tag: Document(media_type=media.INDEX, data=b'{"mediaType":"%b","n":"%b"}' % pair)
        for tag, pair in (
            ("v1", (media.INDEX.encode(), b"1")),
            ("v2", (media.INDEX.encode(), b"2")),
        )
    }

    for tag, document in documents.items():
        place.put_document(document, tag)
    place.put_document(documents["v2"], "v1")

    assert place.get_document("v1") == place.get_document("v2") == documents["v2"]
    with pytest.raises(NotFound, match="nothing with the tag v3"):
        place.get_document("v3")
    names = {path for path in memory.objects if not path.startswith("blobs/")}
    assert names == {"oci-layout", "tags/v1.json", "tags/v2.json"}


def test_an_answer_that_is_cut_is_completed_or_refused(store: Store, place: Bucket) -> None:
    """What is missing is asked for again; then it is one error."""
    store.answer = cut

    with pytest.raises(Unavailable, match="cannot read a blob: the connection broke"):
        b"".join(place.get_blob(BLOB))
    assert len(store.paths) > 1


def test_a_blob_of_another_size_is_refused(store: Store, place: Bucket) -> None:
    """Before its content is read: it may be without end."""

    def larger(handler: BaseHTTPRequestHandler, _body: bytes) -> None:
        handler.send_response(206)
        handler.send_header("Content-Range", f"bytes 0-{len(DATA) - 1}/{1 << 50}")
        handler.send_header("Content-Length", str(len(DATA)))
        for name, text in HEADERS.items():
            handler.send_header(name, text)
        handler.end_headers()
        handler.wfile.write(DATA)

    store.answer = larger

    with pytest.raises(ImageCorrupt, match="has another size"):
        b"".join(place.get_blob(BLOB))


def test_an_index_without_end_is_refused(store: Store, place: Bucket) -> None:
    """It is read up to the limit of a document."""
    sent = []

    def endless(handler: BaseHTTPRequestHandler, _body: bytes) -> None:
        handler.send_response(200)
        handler.send_header("Content-Length", str(1 << 40))
        for name, text in HEADERS.items():
            handler.send_header(name, text)
        handler.end_headers()
        try:
            while True:
                handler.wfile.write(b" " * 65536)
                sent.append(65536)
        except OSError:
            handler.close_connection = True

    store.answer = endless

    with pytest.raises(ImageCorrupt, match="too large"):
        place.get_document("v1")


def test_an_index_that_changes_all_the_time_is_given_up(store: Store, place: Bucket) -> None:
    """Its version never proves to be that of its content."""
    number = 0

    def changing(handler: BaseHTTPRequestHandler, _body: bytes) -> None:
        nonlocal number
        number += 1
        status(200, body=b"%d" % number)(handler, b"")

    store.answer = changing

    with pytest.raises(Busy, match=r"replace index\.json all the time"):
        place.get_document("v1")


def test_an_answer_that_does_not_come_is_not_waited_for(store: Store) -> None:
    """Longer than the options say."""
    released = threading.Event()

    def late(handler: BaseHTTPRequestHandler, _body: bytes) -> None:
        released.wait(60)
        handler.close_connection = True

    store.answer = late
    settings = {
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{store.server_address[1]}",
        "HOME": "/nonexistent",
    }
    options = HttpOptions(
        plain_http=True, connect_s=0.1, answer_s=0.1, attempts=2, least_bytes_per_s=1 << 30
    )
    impatient = Bucket(BucketRef(bucket="images", prefix="a"), settings, options)

    with pytest.raises(DeadlineExceeded):
        put(impatient)
    released.set()
    impatient.close()
