"""Requests to a registry: authorized, redirected and repeated as needed, with typed errors."""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus

from shim.distribution import http_errors
from shim.distribution.authorization import Access, Authorization
from shim.distribution.connections import Body, Broken, Connections, Exchange
from shim.distribution.endpoint import Endpoint, follow, origin_of
from shim.distribution.http_options import HttpOptions
from shim.distribution.retry import Passing, retrying
from shim.errors import CryoError, Unavailable
from shim.model import Value

_MAX_REDIRECTS = 5
_ALWAYS = frozenset({HTTPStatus.TEMPORARY_REDIRECT, HTTPStatus.PERMANENT_REDIRECT})
_OF_READS = _ALWAYS | {HTTPStatus.MOVED_PERMANENTLY, HTTPStatus.FOUND, HTTPStatus.SEE_OTHER}
_READS = frozenset({"GET", "HEAD"})


class Call(Value):
    """A request: what it does, in words for messages, and the statuses that the caller handles."""

    method: str
    url: str
    doing: str
    access: Access
    expected: frozenset[int]
    deadline_s: float
    headers: Mapping[str, str] = {}
    body: Body | bytes | None = None


class RegistryClient:
    """Sends calls to one registry. All methods may be called from several threads."""

    def __init__(self, endpoint: Endpoint, options: HttpOptions) -> None:
        self.endpoint = endpoint
        self.options = options
        self.connections = Connections(options)
        self._authorization = Authorization(endpoint, options, self.connections)
        self._origin = endpoint.origin
        # Hosts that have answered: a connection to one that fails later is tried again.
        self._answered: set[str] = set()

    def send(self, call: Call) -> Exchange:
        """Send a call, again as long as it fails for a reason that passes.

        The caller closes the exchange.
        """
        return retrying(lambda: self.send_once(call), self.options, self.connections.closed)

    def send_once(self, call: Call) -> Exchange:
        """Send a call.

        Raises:
            Passing: it failed for a reason that passes.
            CryoError: it failed, by the table of `http_errors`.
        """
        url = call.url
        for _ in range(_MAX_REDIRECTS + 1):
            exchange = self._send_to(url, call)
            if exchange.status in call.expected:
                return exchange
            try:
                if exchange.status not in (_OF_READS if call.method in _READS else _ALWAYS):
                    raise self._failure(exchange, url, call)
                url = follow(url, exchange.headers.get("Location", ""))
            finally:
                exchange.close()
        message = f"{self.endpoint.login} redirects without end: cannot {call.doing}"
        raise Unavailable(message, remedy="check the registry and the proxies before it")

    def broken(self, broken: Broken, url: str, doing: str) -> CryoError | Passing:
        """Return the failure of an exchange whose answer is incomplete."""
        self.connections.check()
        host = origin_of(url).host if origin_of(url) != self._origin else self.endpoint.login
        answered = host in self._answered
        hide = self._authorization.hidden
        return http_errors.of_broken(host, doing, broken, hide, has_answered=answered)

    def close(self) -> None:
        """End all requests, and close the connections. Idempotent."""
        self.connections.close()

    def _send_to(self, url: str, call: Call) -> Exchange:
        """Send a call to a URL, with credentials if the registry is there, and not elsewhere."""
        if origin_of(url) != self._origin:
            return self._open(url, call, None)
        header = self._authorization.header(call.access)
        exchange = self._open(url, call, header)
        if exchange.status != HTTPStatus.UNAUTHORIZED:
            return exchange
        asked = exchange.headers.get("WWW-Authenticate", "")
        exchange.close()
        answer = self._authorization.answer(asked, call.access, header)
        if answer is None:
            raise self._authorization.denied(call.doing, exchange.status)
        return self._open(url, call, answer)

    def _open(self, url: str, call: Call, authorization: str | None) -> Exchange:
        headers = dict(call.headers)
        if authorization is not None:
            headers["Authorization"] = authorization
        if call.body is not None and not isinstance(call.body, bytes):
            call.body.rewind()
        try:
            exchange = self.connections.open(
                call.method, url, headers, body=call.body, deadline_s=call.deadline_s
            )
        except Broken as broken:
            raise self.broken(broken, url, call.doing) from broken
        self._answered.add(
            self.endpoint.login if origin_of(url) == self._origin else origin_of(url).host
        )
        return exchange

    def _failure(self, exchange: Exchange, url: str, call: Call) -> CryoError | Passing:
        """Return the failure of an answer with an error."""
        is_ours = origin_of(url) == self._origin
        refused = {HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN}
        if is_ours and exchange.status in refused:
            return self._authorization.denied(call.doing, exchange.status)
        try:
            body = exchange.read(http_errors.MAX_ERROR_BYTES) or b""
        except Broken:
            body = b""  # the status says enough
        host = self.endpoint.login if is_ours else origin_of(url).host
        hide = self._authorization.hidden
        return http_errors.of_status(
            host, call.doing, exchange.status, exchange.headers, body, hide
        )
