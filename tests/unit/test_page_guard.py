"""Which requests the page answers: methods, names of the host, other sites, the token."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from starlette.responses import PlainTextResponse
from starlette.types import Message, Receive, Scope, Send

from shim import errors
from shim.config import Http
from shim.errors import CryoError, InvalidArgument, NotFound, PermissionDenied
from shim.page import address
from shim.page.access import Access, read_token
from shim.page.guard import Guard
from shim.page.status import status_of

TOKEN = b"0123456789abcdef"
BEARER = {"authorization": f"Bearer {TOKEN.decode()}"}


async def answer(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer as the page does."""
    await PlainTextResponse("the page")(scope, receive, send)


async def ask(
    access: Access, target: str = "/", method: str = "GET", **headers: str
) -> tuple[int, dict[str, str]]:
    """Return the status and the headers of an answer."""
    path, _, query = target.partition("?")
    given = {"host": "127.0.0.1:9465"} | {
        name.replace("_", "-"): value for name, value in headers.items()
    }
    scope: dict[str, Any] = {
        "type": "http",
        "method": method,
        "path": path,
        "query_string": query.encode(),
        "headers": [(name.encode(), value.encode()) for name, value in given.items()],
    }
    sent: list[Message] = []

    async def receive() -> Message:
        return {"type": "http.request"}

    async def send(message: Message) -> None:
        sent.append(message)

    await Guard(answer, access, any_host=access.needs_token)(scope, receive, send)
    start = sent[0]
    return start["status"], {name.decode(): value.decode() for name, value in start["headers"]}


@pytest.mark.parametrize("method", ("POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "get"))
async def test_the_page_is_read_only(method: str) -> None:
    """Whatever is not a read is refused, and the answer says which methods there are."""
    status, headers = await ask(Access(None), method=method)

    assert status == 405
    assert headers["allow"] == "GET, HEAD"
    assert not [name for name in headers if name.startswith("access-control")]


@pytest.mark.parametrize(
    ("host", "accepted"),
    (
        ("127.0.0.1:9465", True),
        ("127.8.8.8", True),
        ("localhost:9465", True),
        ("LOCALHOST", True),
        ("[::1]:9465", True),
        ("[::1]", True),
        ("rebound.example:9465", False),
        ("10.0.0.1:9465", False),
        ("127.0.0.1.example.com", False),
        ("localhost.example", False),
        ("127.0.0.1:9465@example.com", False),
        ("example.com#127.0.0.1", False),
        ("", False),
    ),
)
async def test_names_of_the_host(host: str, *, accepted: bool) -> None:
    """A site cannot give a name of its own this address, and read the page under that."""
    status, _ = await ask(Access(None), host=host)

    assert status == (200 if accepted else 421)


async def test_any_name_of_the_host_with_a_token() -> None:
    """Who has the token may call the host as they do."""
    assert (await ask(Access(TOKEN), host="node-7", **BEARER))[0] == 200
    assert (await ask(Access(TOKEN), host="node-7"))[0] == 401


@pytest.mark.parametrize(
    ("site", "mode", "accepted"),
    (
        ("cross-site", "no-cors", False),
        ("same-site", "cors", False),
        ("cross-site", "navigate", True),
        ("same-origin", "cors", True),
        ("none", "navigate", True),
    ),
)
async def test_other_sites(site: str, mode: str, *, accepted: bool) -> None:
    """Another site may link to the page, and cannot use it as a part of its own."""
    status, _ = await ask(Access(None), sec_fetch_site=site, sec_fetch_mode=mode)

    assert status == (200 if accepted else 403)


async def test_every_answer_has_the_headers() -> None:
    """Also one that refuses: nothing is framed, no script but that of the page runs."""
    for status, headers in (
        await ask(Access(None)),
        await ask(Access(None), method="POST"),
        await ask(Access(TOKEN)),
    ):
        assert status in {200, 405, 401}
        policy = headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe-inline" not in policy
        assert headers["x-frame-options"] == "DENY"
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "no-referrer"
        assert headers["cache-control"] == "no-store"


@pytest.mark.parametrize(
    "headers",
    (
        {},
        {"authorization": "Bearer "},
        {"authorization": "Bearer 0123456789abcdeF"},
        {"authorization": f"Basic {TOKEN.decode()}"},
        {"authorization": TOKEN.decode()},
        {"authorization": "Bearer \xff\xfe"},
        {"cookie": "cryo_page="},
        {"cookie": f"cryo_page={TOKEN.decode()}"},
        {"cookie": "cryo_page=\x00;;==;"},
        {"cookie": "\xff"},
    ),
)
async def test_without_the_token(headers: dict[str, str]) -> None:
    """Nothing is answered but the probe of its health; the cookie is not the token itself."""
    status, found = await ask(Access(TOKEN), **headers)

    assert status == 401
    assert found["www-authenticate"] == "Bearer"
    assert (await ask(Access(TOKEN), "/healthz", **headers))[0] == 200
    assert (await ask(Access(TOKEN), "/?token=x", **headers))[0] == 401


async def test_the_token_is_exchanged_for_a_cookie() -> None:
    """The address then has no token; the cookie is neither for scripts nor for other sites."""
    access = Access(TOKEN)
    status, headers = await ask(access, f"/images?a=1&token={TOKEN.decode()}&b=2")

    assert (status, headers["location"]) == (303, "/images?a=1&b=2")
    cookie, *attributes = headers["set-cookie"].split("; ")
    assert {"HttpOnly", "SameSite=Strict", "Path=/"} <= set(attributes)
    assert TOKEN.decode() not in cookie
    assert (await ask(access, cookie=f"other=1; {cookie}"))[0] == 200
    assert (await ask(Access(TOKEN), cookie=cookie))[0] == 401, "it holds until a restart"


async def test_the_exchange_leads_nowhere_else() -> None:
    """A path that a browser would take for another host is not one in the redirect."""
    _, headers = await ask(Access(TOKEN), f"//example.com/?token={TOKEN.decode()}")

    assert headers["location"] == "/example.com/"


async def test_no_token_is_accepted_where_there_is_none() -> None:
    """A page without a token takes no cookie for one."""
    assert not Access(None).accepts("")
    assert not Access(None).knows("")


def token_file(folder: Path, text: bytes, mode: int = 0o600) -> Path:
    """Write a file with a token."""
    path = folder / "token"
    path.write_bytes(text)
    path.chmod(mode)
    return path


def test_the_token_of_a_file(tmp_path: Path) -> None:
    """The end of its line does not count."""
    assert read_token(token_file(tmp_path, TOKEN + b"\n")) == TOKEN


@pytest.mark.parametrize(
    ("text", "mode", "kind"),
    (
        (b"", 0o600, InvalidArgument),
        (b"short\n", 0o600, InvalidArgument),
        (b"0123456789 abcdef\n", 0o600, InvalidArgument),
        (b"\xff" * 20, 0o600, InvalidArgument),
        (TOKEN, 0o640, PermissionDenied),
        (TOKEN, 0o604, PermissionDenied),
        (TOKEN, 0o622, PermissionDenied),
    ),
)
def test_a_token_that_is_not_accepted(
    tmp_path: Path, text: bytes, mode: int, kind: type[CryoError]
) -> None:
    """One that others can read, or guess; the error has the remedy."""
    with pytest.raises(kind) as caught:
        read_token(token_file(tmp_path, text, mode))
    assert caught.value.remedy


def test_a_token_that_is_not_there(tmp_path: Path) -> None:
    """A missing file is no page without a token."""
    with pytest.raises(NotFound):
        address.checked(Http(address="127.0.0.1:0", token_file=str(tmp_path / "token")))


@pytest.mark.parametrize("where", ("0.0.0.0:80", "10.0.0.1:80", "[::]:80", "[2001:db8::1]:0"))
def test_an_address_that_others_reach(tmp_path: Path, where: str) -> None:
    """It is refused without a token, and the error says how to set one."""
    with pytest.raises(InvalidArgument, match=r"http\.address") as caught:
        address.checked(Http(address=where))
    assert "--http-token-file" in caught.value.remedy

    path = token_file(tmp_path, TOKEN)
    _, access = address.checked(Http(address=where, token_file=str(path)))
    assert access.needs_token


@pytest.mark.parametrize("where", ("127.0.0.1:0", "[::1]:0", "unix:/run/p.sock", "/run/p.sock"))
def test_an_address_of_this_host(where: str) -> None:
    """It needs no token."""
    _, access = address.checked(Http(address=where))
    assert not access.needs_token


@pytest.mark.parametrize("where", ("localhost:80", ":80", "127.0.0.1", "127.0.0.1:x", "unix:p"))
def test_what_is_no_address(where: str) -> None:
    """It is named in the error."""
    with pytest.raises(InvalidArgument):
        address.checked(Http(address=where))


def test_each_error_has_a_status() -> None:
    """That of the nearest class; what is not known here is a fault of the server."""
    assert status_of(errors.NotFound("x")) == 404
    assert status_of(errors.InvalidBundle("x")) == 400
    assert status_of(errors.DeadlineExceeded("x")) == 504
    assert status_of(errors.RunscError("ps", 1, "x")) == 500
