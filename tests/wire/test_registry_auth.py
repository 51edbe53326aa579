"""Logins at registries: what they ask for is answered, and no secret goes where it must not."""

from __future__ import annotations

import base64
import json
import threading
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest

from shim.distribution import media
from shim.distribution.place import Document
from shim.distribution.token_server import Token
from shim.errors import FailedPrecondition, PermissionDenied, Unavailable
from tests.certificates import Certificates
from tests.memory_registry import MemoryRegistry
from tests.sites import Broken, Request, Site, reply
from tests.wire.helpers_registry import BLOB, CONTENT, options, put, registry_at, write_config

SECRET = "hunter2-of-the-user"  # noqa: S105 - of the tests
MANIFEST = Document(media_type=media.MANIFEST, data=b"{}")
BASIC = "Basic " + base64.b64encode(f"user:{SECRET}".encode()).decode()


class WithBasic:
    """A registry that asks for a user and a password."""

    def __init__(self) -> None:
        self.memory = MemoryRegistry()

    def __call__(self, request: Request) -> bytes:
        """Answer those who are logged in."""
        if request.headers.get("authorization") != BASIC:
            return reply(401, WWW_Authenticate='Basic realm="here"')
        return self.memory(request)


class WithTokens:
    """A registry with a token server at /token; tokens are numbered, and one is valid."""

    def __init__(self, *, expected: str | None = BASIC, realm: str = "") -> None:
        self.memory = MemoryRegistry()
        self.expected = expected
        self.realm = realm
        self.asked: list[dict[str, list[str]]] = []
        self.valid = 0
        self.life_s = 300.0

    def __call__(self, request: Request) -> bytes:
        """Give a token, or answer those who have one."""
        if request.path == "/token":
            return self._token(request)
        token = request.headers.get("authorization", "").removeprefix("Bearer ")
        action = "pull" if request.method in {"GET", "HEAD"} else "pull,push"
        if token != f"token-{self.valid}-{action}":
            realm = self.realm or f"http://{request.headers['host']}/token"
            scope = f"repository:snap/llama:{action}"
            text = f'Bearer realm="{realm}",service="registry",scope="{scope}"'
            return reply(401, WWW_Authenticate=text)
        return self.memory(request)

    def _token(self, request: Request) -> bytes:
        if request.method == "GET" and request.headers.get("authorization") != self.expected:
            return reply(401, b'{"details":"incorrect username or password"}')
        text = urlsplit(request.target).query or request.body.decode()
        asked = parse_qs(text)
        self.asked.append(asked)
        self.valid += 1
        action = asked["scope"][0].rpartition(":")[2]
        token = {"token": f"token-{self.valid}-{action}", "expires_in": self.life_s}
        return reply(200, json.dumps(token).encode())


def login(folder: Path, site: Site, **entry: str) -> str:
    """Write the credentials for a site."""
    encoded = base64.b64encode(f"user:{SECRET}".encode()).decode()
    return write_config(folder, site.host, **(entry or {"auth": encoded}))


def test_a_user_with_a_password_is_let_in(tmp_path: Path) -> None:
    """The password is sent once the registry has asked for it, and then at once."""
    with Site(WithBasic()) as site:
        with registry_at(site, options(docker_config=login(tmp_path, site))) as registry:
            put(registry)
            assert b"".join(registry.get_blob(BLOB)) == CONTENT

        sent = [request.headers.get("authorization") for request in site.requests]
        assert sent == [None, BASIC, BASIC, BASIC]


def test_a_wrong_password_names_the_file_and_not_itself(tmp_path: Path) -> None:
    """The remedy is to log in."""
    with Site(WithBasic()) as site:
        config = login(tmp_path, site, username="user", password="wrong-" + SECRET)
        with (
            registry_at(site, options(docker_config=config)) as registry,
            pytest.raises(PermissionDenied) as caught,
        ):
            registry.has_blob(BLOB)

        assert config in caught.value.message
        assert SECRET not in caught.value.message
        assert f"docker login {site.host}" in caught.value.remedy


def test_a_login_that_is_missing_names_the_files(tmp_path: Path) -> None:
    """Which files were looked into is said."""
    missing = str(tmp_path / "config.json")
    with (
        Site(WithBasic()) as site,
        registry_at(site, options(docker_config=missing)) as registry,
        pytest.raises(PermissionDenied, match=f"requires a login.*no .* in {missing}"),
    ):
        registry.has_blob(BLOB)


def test_a_user_who_may_not_is_forbidden(tmp_path: Path) -> None:
    """A 403 is not a matter of the password: the remedy is another user, or the right."""
    with Site(lambda _: reply(403)) as site:
        config = login(tmp_path, site)
        with (
            registry_at(site, options(docker_config=config)) as registry,
            pytest.raises(PermissionDenied, match=f"forbids the user of {config}") as caught,
        ):
            put(registry)

    assert "right" in caught.value.remedy


def test_tokens_are_got_with_the_password_and_kept(tmp_path: Path) -> None:
    """One for each kind of access, however many requests there are."""
    tokens = WithTokens()
    with Site(tokens) as site:
        with registry_at(site, options(docker_config=login(tmp_path, site))) as registry:
            put(registry)
            put(registry)

        asked = {"service": ["registry"], "scope": ["repository:snap/llama:pull,push"]}
        assert tokens.asked == [asked]
        others = [request for request in site.requests if request.path != "/token"]
        assert BASIC not in [request.headers.get("authorization") for request in others]


def test_an_identity_token_is_posted(tmp_path: Path) -> None:
    """It is in the body of the request, and in no URL."""
    tokens = WithTokens()
    with Site(tokens) as site:
        config = login(tmp_path, site, identitytoken=SECRET)
        with registry_at(site, options(docker_config=config)) as registry:
            assert not registry.has_blob(BLOB)

        assert tokens.asked[0]["refresh_token"] == [SECRET]
        assert tokens.asked[0]["grant_type"] == ["refresh_token"]
        assert SECRET not in "".join(request.target for request in site.requests)


def test_an_anonymous_token_is_enough_where_it_is() -> None:
    """No credentials are needed for a public repository."""
    with Site(WithTokens(expected=None)) as site, registry_at(site) as registry:
        assert not registry.has_blob(BLOB)


def test_a_token_server_that_wants_a_login_says_so() -> None:
    """Without credentials the files that were looked into are named."""
    with (
        Site(WithTokens()) as site,
        registry_at(site) as registry,
        pytest.raises(PermissionDenied, match=r"without a login.*no .*config.json"),
    ):
        registry.has_blob(BLOB)


def test_a_token_that_expires_on_the_way_is_replaced(tmp_path: Path) -> None:
    """The registry refuses the old one once, and the transfer goes on."""
    tokens = WithTokens()
    with Site(tokens) as site:
        with registry_at(site, options(docker_config=login(tmp_path, site))) as registry:
            put(registry)
            tokens.valid += 1
            put(registry)

        assert len(tokens.asked) == 2


def test_a_token_near_its_end_is_replaced_before_it_is_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No request is sent with one that has expired by this machine's clock."""
    tokens = WithTokens()
    with Site(tokens) as site:
        with registry_at(site, options(docker_config=login(tmp_path, site))) as registry:
            put(registry)
            monkeypatch.setattr(Token, "is_fresh", False)
            registry.put_document(MANIFEST)

        assert site.methods() == ["POST", "GET", "POST", "PUT", "GET", "PUT"]


def test_a_token_that_is_always_refused_is_an_error(tmp_path: Path) -> None:
    """It is replaced once, not forever."""
    tokens = WithTokens()
    with Site(tokens) as site:
        config = login(tmp_path, site)

        def never(request: Request) -> bytes:
            tokens.valid = -1 if request.path != "/token" else tokens.valid
            return tokens(request)

        site.answer = never
        with (
            registry_at(site, options(docker_config=config)) as registry,
            pytest.raises(PermissionDenied, match=config),
        ):
            registry.has_blob(BLOB)

        assert len(tokens.asked) == 1


def test_threads_share_one_token(tmp_path: Path) -> None:
    """Four uploads that begin together ask for one token."""
    tokens = WithTokens()
    with Site(tokens) as site:
        with registry_at(site, options(docker_config=login(tmp_path, site))) as registry:
            threads = [threading.Thread(target=put, args=(registry,)) for _ in range(4)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(60)

        assert len(tokens.asked) == 1
        assert tokens.memory.blobs == {BLOB.digest: CONTENT}


@pytest.mark.parametrize("answer", (b"", b"[]", b'{"token":""}', b'{"token":"a\\r\\nX: y"}'))
def test_a_token_that_is_none_is_refused(answer: bytes) -> None:
    """It would be put into a header."""
    tokens = WithTokens()

    def serve(request: Request) -> bytes:
        return reply(200, answer) if request.path == "/token" else tokens(request)

    with (
        Site(serve) as site,
        registry_at(site) as registry,
        pytest.raises(Unavailable, match="gave no token"),
    ):
        registry.has_blob(BLOB)


def test_a_busy_token_server_is_asked_again(tmp_path: Path) -> None:
    """As the registry itself would be."""
    tokens, busy = WithTokens(), [reply(503), reply(429, Retry_After="0")]

    def serve(request: Request) -> bytes:
        return busy.pop() if busy and request.path == "/token" else tokens(request)

    with (
        Site(serve) as site,
        registry_at(site, options(docker_config=login(tmp_path, site))) as registry,
    ):
        assert not registry.has_blob(BLOB)


@pytest.mark.parametrize("target", ("redirect", "upload"))
def test_another_host_gets_no_credentials(tmp_path: Path, target: str) -> None:
    """Where the registry refers to for content gets neither the password nor a token."""
    basic = WithBasic()
    with Site(basic.memory) as storage, Site(basic) as site:
        with registry_at(site, options(docker_config=login(tmp_path, site))) as registry:
            if target == "upload":
                basic.memory.uploads = f"{storage.url}/v2/any/blobs/uploads/"
                put(registry)
            else:
                basic.memory.blobs[BLOB.digest] = CONTENT
                assert registry.has_blob(BLOB)
                moved = reply(307, Location=f"{storage.url}/v2/any/blobs/{BLOB.digest}")
                site.answer = lambda _: moved
                assert b"".join(registry.get_blob(BLOB)) == CONTENT

        assert site.requests[-1].headers["authorization"] == BASIC
        assert [request.headers.get("authorization") for request in storage.requests] == [None]


def test_the_token_server_of_a_registry_with_tls_has_tls_too(tmp_path: Path) -> None:
    """Otherwise nothing is sent to it."""
    certificates = Certificates(tmp_path / "certificates")
    with Site(lambda _: reply(200, b"{}")) as plain:
        tokens = WithTokens(realm=f"{plain.url}/token")
        with Site(tokens, certificates.context()) as site:
            chosen = options(docker_config=login(tmp_path, site), ca_file=str(certificates.ca))
            with (
                registry_at(site, chosen) as registry,
                pytest.raises(PermissionDenied, match="without TLS"),
            ):
                registry.has_blob(BLOB)

        assert plain.requests == []


def test_credentials_go_to_no_other_host_without_tls(tmp_path: Path) -> None:
    """Although the registry itself has no TLS either."""
    tokens = WithTokens(realm="http://registry.invalid/token")
    with (
        Site(tokens) as site,
        registry_at(site, options(docker_config=login(tmp_path, site))) as registry,
        pytest.raises(PermissionDenied, match="must not get the credentials"),
    ):
        registry.has_blob(BLOB)


@pytest.mark.parametrize("realm", ("file:///etc/shadow", "nowhere", "http://a:b@127.0.0.1/"))
def test_a_token_server_that_is_none_is_refused(realm: str) -> None:
    """The realm is a URL of HTTP without a user."""
    with (
        Site(WithTokens(realm=realm)) as site,
        registry_at(site) as registry,
        pytest.raises(Unavailable, match="cannot be used"),
    ):
        registry.has_blob(BLOB)


@pytest.mark.parametrize("escaped", (False, True), ids=("plain", "escaped"))
def test_secrets_that_a_registry_repeats_are_hidden(tmp_path: Path, escaped: bool) -> None:
    """An error of the registry may have what it was sent."""
    basic = WithBasic()

    def repeat(request: Request) -> bytes:
        sent = request.headers.get("authorization")
        if sent is None:
            return basic(request)
        text = json.dumps({"errors": [{"code": "UNKNOWN", "message": f"{sent} {SECRET}"}]})
        if escaped:
            text = text.replace(SECRET[0], f"\\u{ord(SECRET[0]):04x}").replace("B", "\\u0042")
        return reply(418, text.encode())

    with (
        Site(repeat) as site,
        registry_at(site, options(docker_config=login(tmp_path, site))) as registry,
        pytest.raises(FailedPrecondition, match="hidden") as caught,
    ):
        registry.get_document("v1")

    assert SECRET not in str(caught.value)
    assert BASIC.removeprefix("Basic ") not in str(caught.value)


@pytest.mark.parametrize("who", ("registry", "token server"))
def test_secrets_in_an_answer_that_is_not_http_are_hidden(tmp_path: Path, who: str) -> None:
    """What breaks HTTP may be in the error too."""
    other = WithBasic() if who == "registry" else WithTokens()

    def repeat(request: Request) -> bytes:
        if (sent := request.headers.get("authorization")) is None:
            return other(request)
        raise Broken(f"HTTP/1.1 {sent} {SECRET}\r\n\r\n".encode())

    with (
        Site(repeat) as site,
        registry_at(site, options(docker_config=login(tmp_path, site))) as registry,
        pytest.raises(Unavailable, match="hidden") as caught,
    ):
        registry.get_document("v1")

    assert SECRET not in str(caught.value)
    assert BASIC.removeprefix("Basic ") not in str(caught.value)
