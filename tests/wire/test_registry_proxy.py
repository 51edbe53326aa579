"""Registries behind the proxies that the environment names, as Docker uses them."""

from __future__ import annotations

import base64
from pathlib import Path

import pytest

from shim.errors import InvalidArgument, Unavailable
from tests.certificates import Certificates
from tests.memory_registry import MemoryRegistry
from tests.sites import Request, Site, Tunnel, reply
from tests.wire.helpers_registry import BLOB, CONTENT, options, put, registry_at

# It has no address: only a proxy can reach it.
HOST = "registry.invalid"
PLAIN = options(plain_http=True)


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Remove the proxies of who runs the tests."""
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    return monkeypatch


def test_plain_requests_go_by_the_proxy(environment: pytest.MonkeyPatch) -> None:
    """It gets the whole URL, and its own user; the registry's host is not resolved here."""
    with Site(MemoryRegistry()) as proxy:
        environment.setenv("HTTP_PROXY", f"http://me:it%27s@{proxy.host}")
        with registry_at(HOST, PLAIN) as registry:
            assert b"".join(registry.get_blob(put(registry))) == CONTENT

        user = base64.b64encode(b"me:it's").decode()
        assert {request.headers["proxy-authorization"] for request in proxy.requests} == {
            f"Basic {user}"
        }
        assert all(request.target.startswith(f"http://{HOST}/v2/") for request in proxy.requests)


def test_tls_goes_through_the_proxy(environment: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """It sees the host, and nothing of what is sent."""
    certificates = Certificates(tmp_path)
    with Site(MemoryRegistry(), certificates.context()) as site:

        def connect(request: Request) -> bytes:
            assert request.method == "CONNECT"
            raise Tunnel(site.host)

        with Site(connect) as proxy:
            environment.setenv("HTTPS_PROXY", proxy.host)
            chosen = options(ca_file=str(certificates.ca))
            with registry_at(HOST, chosen) as registry:
                assert b"".join(registry.get_blob(put(registry))) == CONTENT

            assert {request.target for request in proxy.requests} == {f"{HOST}:443"}
        assert site.methods() == ["POST", "PUT", "GET"]


def test_this_machine_needs_no_proxy(environment: pytest.MonkeyPatch) -> None:
    """A registry on the loopback interface is reached at once."""
    with Site(MemoryRegistry()) as site, Site(MemoryRegistry()) as proxy:
        environment.setenv("HTTP_PROXY", proxy.url)
        with registry_at(site) as registry:
            put(registry)

        assert proxy.requests == []


def test_no_proxy_names_hosts_without_one(environment: pytest.MonkeyPatch) -> None:
    """They are reached without it, and so in vain here."""
    with Site(MemoryRegistry()) as proxy:
        environment.setenv("HTTP_PROXY", proxy.url)
        environment.setenv("NO_PROXY", ".example.com,.invalid")
        with registry_at(HOST, PLAIN) as registry, pytest.raises(Unavailable, match="be reached"):
            put(registry)

        assert proxy.requests == []


@pytest.mark.parametrize("tls", (False, True), ids=("plain", "TLS"))
def test_a_proxy_that_does_not_run_is_named(environment: pytest.MonkeyPatch, tls: bool) -> None:
    """The registry is not blamed, and the password of the proxy not shown."""
    environment.setenv("HTTP_PROXY", "http://me:hunter2@127.0.0.1:1")
    environment.setenv("HTTPS_PROXY", "http://me:hunter2@127.0.0.1:1")
    with (
        registry_at(HOST, options(plain_http=not tls)) as registry,
        pytest.raises(Unavailable, match=r"proxy to registry\.invalid.*refused") as caught,
    ):
        registry.has_blob(BLOB)

    assert "HTTPS_PROXY" in caught.value.remedy
    assert "hunter2" not in str(caught.value)


def test_a_proxy_that_refuses_the_registry_is_named(environment: pytest.MonkeyPatch) -> None:
    """Its status is in the error."""
    with Site(lambda _: reply(407)) as proxy:
        environment.setenv("HTTPS_PROXY", proxy.url)
        with registry_at(HOST) as registry, pytest.raises(Unavailable, match=r"proxy.*407"):
            registry.has_blob(BLOB)


@pytest.mark.parametrize("proxy", ("socks5://me:hunter2@127.0.0.1:1", "http://[", "http://:8"))
def test_a_proxy_that_is_none_is_refused(environment: pytest.MonkeyPatch, proxy: str) -> None:
    """Its text may have a password."""
    environment.setenv("HTTP_PROXY", proxy)
    with (
        registry_at(HOST, PLAIN) as registry,
        pytest.raises(InvalidArgument, match="not one of HTTP") as caught,
    ):
        registry.has_blob(BLOB)

    assert "hunter2" not in str(caught.value)
