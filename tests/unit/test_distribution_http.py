from __future__ import annotations

import threading
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest

from shim.distribution import challenge
from shim.distribution.challenge import Challenge
from shim.distribution.endpoint import endpoint_of, follow, is_loopback, with_query
from shim.distribution.http_options import HttpOptions
from shim.distribution.reference import RegistryRef
from shim.distribution.retry import Attempts, Passing, retry_after_s
from shim.errors import InvalidArgument, PermissionDenied, Unavailable


@pytest.mark.parametrize(
    ("header", "expected"),
    (
        ("Basic", [("basic", {})]),
        ('Basic realm="a, b"', [("basic", {"realm": "a, b"})]),
        (
            'Bearer realm="https://t/x",service=s,scope="repository:a:pull,push"',
            [
                (
                    "bearer",
                    {"realm": "https://t/x", "service": "s", "scope": "repository:a:pull,push"},
                )
            ],
        ),
        ('BEARER Realm = "a\\"b"', [("bearer", {"realm": 'a"b'})]),
        (
            'Negotiate, Bearer realm="r", Basic realm="x"',
            [("negotiate", {}), ("bearer", {"realm": "r"}), ("basic", {"realm": "x"})],
        ),
        ('Bearer realm="one",realm="two"', [("bearer", {"realm": "one"})]),
        ('Bearer realm="open', [("bearer", {})]),
        ("", []),
        ("=", []),
        ("\0\0", []),
    ),
)
def test_challenges_are_parsed(header: str, expected: list[tuple[str, dict[str, str]]]) -> None:
    """Several in one header, quoted or not; what is malformed ends them."""
    found = [Challenge(scheme=scheme, parameters=more) for scheme, more in expected]

    assert challenge.parse(header) == found


@pytest.mark.parametrize(
    ("host", "expected"),
    (
        ("localhost", True),
        ("127.0.0.1", True),
        ("127.9.9.9", True),
        ("::1", True),
        ("10.0.0.1", False),
        ("localhost.example.com", False),
        ("127.0.0.1.example.com", False),
    ),
)
def test_loopback_is_known(host: str, expected: bool) -> None:
    """By its name and its addresses only."""
    assert is_loopback(host) is expected


@pytest.mark.parametrize(
    ("host", "options", "expected"),
    (
        ("registry.example.com", HttpOptions(), "https://registry.example.com"),
        ("registry.example.com", HttpOptions(plain_http=True), "http://registry.example.com"),
        ("localhost:5000", HttpOptions(), "http://localhost:5000"),
        ("[::1]:5000", HttpOptions(), "http://[::1]:5000"),
        ("localhost:5000", HttpOptions(ca_file="/ca"), "https://localhost:5000"),
        ("Registry.Example.com", HttpOptions(), "https://registry.example.com"),
    ),
)
def test_only_loopback_is_plain_by_default(host: str, options: HttpOptions, expected: str) -> None:
    """Others need the option, and loopback with a CA has TLS."""
    assert endpoint_of(RegistryRef(host=host, repository="a/b"), options).url == expected


@pytest.mark.parametrize("host", ("h:99999", "h:0", "[::zz]"))
def test_a_host_that_cannot_be_is_invalid(host: str) -> None:
    """The caller wrote it."""
    with pytest.raises(InvalidArgument):
        endpoint_of(RegistryRef(host=host, repository="a"), HttpOptions())


@pytest.mark.parametrize(
    ("location", "expected"),
    (
        ("/v2/x", "https://h/v2/x"),
        ("x?a=b", "https://h/v2/x?a=b"),
        ("https://other:1/x#part", "https://other:1/x"),
        ("//other/x", "https://other/x"),
    ),
)
def test_locations_are_relative_or_whole(location: str, expected: str) -> None:
    """As HTTP has them."""
    assert follow("https://h/v2/a", location) == expected


def test_no_location_leads_away_from_tls() -> None:
    """Nor to anything that is not HTTP."""
    with pytest.raises(PermissionDenied):
        follow("https://h/", "http://h/")
    with pytest.raises(Unavailable):
        follow("https://h/", "ftp://h/")


def test_parameters_are_added_to_those_that_are_there() -> None:
    """An upload's own are left as they are."""
    assert with_query("http://h/x?_state=a%3Db", digest="sha256:0") == (
        "http://h/x?_state=a%3Db&digest=sha256%3A0"
    )


@pytest.mark.parametrize(
    ("header", "expected"), ((None, None), ("0", 0.0), ("120", 120.0), ("x", None), ("-1", None))
)
def test_seconds_to_wait_are_read(header: str | None, expected: float | None) -> None:
    """What is malformed is as if it were missing."""
    assert retry_after_s(header) == expected


def test_a_date_to_wait_for_is_read() -> None:
    """One that has passed is no wait."""
    now = datetime.now(UTC)
    later = retry_after_s(format_datetime(now + timedelta(hours=1), usegmt=True))

    assert retry_after_s(format_datetime(now - timedelta(hours=1), usegmt=True)) == 0
    assert later is not None
    assert 3000 < later <= 3600


def test_attempts_have_an_end_and_progress_begins_again() -> None:
    """The failure itself is raised in the end."""
    failure = Unavailable("busy")
    attempts = Attempts(HttpOptions(attempts=2, backoff_s=0), threading.Event())

    attempts.wait(Passing(failure))
    attempts.progressed()
    attempts.wait(Passing(failure))
    with pytest.raises(Unavailable) as caught:
        attempts.wait(Passing(failure))

    assert caught.value is failure


def test_a_closed_client_waits_no_more() -> None:
    """The failure is raised at once."""
    closed = threading.Event()
    closed.set()

    with pytest.raises(Unavailable):
        Attempts(HttpOptions(backoff_s=1e6), closed).wait(Passing(Unavailable("busy")))
