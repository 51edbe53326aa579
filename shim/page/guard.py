"""Refuses requests before anything answers them, and puts the same headers on every answer."""

from __future__ import annotations

import ipaddress
import logging
import re
from http.cookies import CookieError, SimpleCookie
from urllib.parse import urlencode

from starlette.datastructures import Headers, MutableHeaders, QueryParams
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from shim.page.access import COOKIE, Access

_log = logging.getLogger(__name__)
_METHODS = frozenset({"GET", "HEAD"})
# For probes of a supervisor, which have no token; it says nothing about tasks.
HEALTH = "/healthz"
_QUERY = "token"
_HOST = re.compile(r"(?P<name>\[[0-9A-Fa-f:.]+\]|[^\[\]:]+)(:[0-9]*)?")
_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Frame-Options": "DENY",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-store",
}


class Guard:
    """An ASGI application around another: methods, names of the host, other sites, the token."""

    def __init__(self, app: ASGIApp, access: Access, *, any_host: bool) -> None:
        """Take who may read; with `any_host` the name by which a browser calls the host is free.

        Otherwise it must be one of the loopback interface: a page of another site could give a name
        of its own this address (DNS rebinding), and then read the page as its own.
        """
        self._app = app
        self._access = access
        self._any_host = any_host

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or refuse it."""

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        await (self._refusal(scope) or self._app)(scope, receive, send_with_headers)

    def _refusal(self, scope: Scope) -> Response | None:
        """Return the answer to a request that is not passed on."""
        headers = Headers(scope=scope)
        if scope["method"] not in _METHODS:
            return _refused(405, "the page is read-only", Allow="GET, HEAD")
        if not self._any_host and not _is_loopback(headers.get("host", "")):
            return _refused(421, "call this host 127.0.0.1, [::1] or localhost, or set a token")
        if _is_embedded(headers):
            return _refused(403, "another site may not use the page")
        if scope["path"] == HEALTH or not self._access.needs_token:
            return None
        return self._identified(scope, headers)

    def _identified(self, scope: Scope, headers: Headers) -> Response | None:
        scheme, _, token = headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer" and self._access.accepts(token.strip()):
            return None
        query = QueryParams(scope["query_string"])
        if _QUERY in query:
            if self._access.accepts(query[_QUERY]):
                return self._exchanged(scope["path"], query)
        elif self._access.knows(_cookie(headers)):
            return None
        _log.info("refused a request for the page without its token")
        return _refused(
            401,
            "a token is needed: open /?token=TOKEN, or send Authorization: Bearer TOKEN",
            **{"WWW-Authenticate": "Bearer"},
        )

    def _exchanged(self, path: str, query: QueryParams) -> Response:
        """Give the cookie for the token, and take that out of the address."""
        rest = urlencode([pair for pair in query.multi_items() if pair[0] != _QUERY])
        # A path that begins with two slashes would be another host.
        target = "/" + path.lstrip("/\\") + (f"?{rest}" if rest else "")
        answer = RedirectResponse(target, status_code=303)
        answer.headers["Set-Cookie"] = self._access.cookie
        return answer


def _refused(status: int, text: str, **headers: str) -> Response:
    return PlainTextResponse(f"{text}\n", status_code=status, headers=headers)


def _is_loopback(host: str) -> bool:
    """Whether a Host header names the loopback interface, by address or as localhost."""
    found = _HOST.fullmatch(host)
    name = found["name"] if found else ""
    if name.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(name.removeprefix("[").removesuffix("]")).is_loopback
    except ValueError:
        return False


def _is_embedded(headers: Headers) -> bool:
    """Whether a page of another site asks, and not a user who follows a link there."""
    site, mode = headers.get("sec-fetch-site", "none"), headers.get("sec-fetch-mode", "navigate")
    return site not in {"none", "same-origin"} and mode != "navigate"


def _cookie(headers: Headers) -> str:
    try:
        found = SimpleCookie(headers.get("cookie", "")).get(COOKIE)
    except CookieError:
        return ""
    return found.value if found is not None else ""
