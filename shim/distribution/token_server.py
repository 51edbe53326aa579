"""Gets tokens for a registry from the server that it names (the `realm` of a Bearer challenge)."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from urllib.parse import urlencode

import msgspec

from shim.distribution import http_errors
from shim.distribution.challenge import Challenge
from shim.distribution.connections import Broken, Connections
from shim.distribution.credentials import Credentials, hidden, looked_into
from shim.distribution.endpoint import Endpoint, check_url, is_loopback, origin_of, with_query
from shim.distribution.http_options import HttpOptions
from shim.errors import PermissionDenied, Unavailable
from shim.model import Value

_MAX_BYTES = 256 << 10
_SHOWABLE = re.compile(r"[\x21-\x7e]+")
# What the specification of tokens says if the server does not.
_DEFAULT_LIFE_S = 60.0
# A token is replaced so long before its end; a shorter life than twice that is halved.
_EARLY_S = 10.0
_CLIENT = "cryoshim"
_UNAUTHORIZED = frozenset({400, 401, 403})
_OK = 200


class Token(Value):
    """A token with the time of this machine's clock at which it is replaced."""

    text: str
    until_s: float

    def __repr__(self) -> str:
        """Return no secret."""
        return "Token()"

    @property
    def is_fresh(self) -> bool:
        """Whether it can be used."""
        return time.monotonic() < self.until_s


class _Answer(Value):
    token: str | None = None
    access_token: str | None = None
    expires_in: float | None = None


class TokenServer:
    """Gets tokens; `endpoint` is of the registry that they are for."""

    def __init__(self, endpoint: Endpoint, options: HttpOptions, connections: Connections) -> None:
        self._endpoint = endpoint
        self._options = options
        self._connections = connections

    def get(self, challenge: Challenge, scope: str, credentials: Credentials | None) -> Token:
        """Return a token, an anonymous one without credentials.

        Raises:
            Passing: the server cannot answer now.
            PermissionDenied: it refuses, or may not get these credentials.
            Unavailable: it gives no token.
        """
        realm = challenge.parameters.get("realm", "")
        self._check(realm, credentials)
        asked = {"scope": scope}
        if service := challenge.parameters.get("service"):
            asked["service"] = service
        status, headers, body = self._ask(realm, asked, credentials)
        host = origin_of(realm).host
        if status in _UNAUTHORIZED:
            raise self._refused(host, status, credentials)
        if status != _OK:
            doing = f"get a token for {self._endpoint.login}"
            hide = _hider(credentials)
            raise http_errors.of_status(host, doing, status, headers, body, hide)
        return _token(host, body)

    def _check(self, realm: str, credentials: Credentials | None) -> None:
        """Check that the server may be asked, and get the credentials of this registry."""
        check_url(realm, self._endpoint.login)
        origin, registry = origin_of(realm), self._endpoint.origin
        if origin.scheme == "https":
            return
        shown = f"{self._endpoint.login} names a token server without TLS, {origin.host}"
        if registry.scheme == "https":
            raise PermissionDenied(shown, remedy="correct the realm of the registry to https")
        if credentials is not None and origin.host != registry.host:
            if is_loopback(origin.host) and is_loopback(registry.host):
                return
            message = f"{shown}, which must not get the credentials"
            raise PermissionDenied(message, remedy="correct the realm of the registry to https")

    def _ask(
        self, realm: str, asked: dict[str, str], credentials: Credentials | None
    ) -> tuple[int, dict[str, str], bytes]:
        host = origin_of(realm).host
        headers: dict[str, str] = {"Accept": "application/json"}
        method, url, body = "GET", realm, None
        if credentials is not None and credentials.identity_token:
            method = "POST"
            headers["Content-Type"] = "application/x-www-form-urlencoded"
            form = {
                **asked,
                "grant_type": "refresh_token",
                "client_id": _CLIENT,
                "refresh_token": credentials.identity_token,
            }
            body = urlencode(form).encode()
        else:
            url = with_query(realm, **asked)
            if credentials is not None:
                headers["Authorization"] = credentials.basic
        try:
            exchange = self._connections.open(
                method, url, headers, body=body, deadline_s=self._options.deadline_s(_MAX_BYTES)
            )
            try:
                found = exchange.read(_MAX_BYTES)
            finally:
                exchange.close()
        except Broken as broken:
            doing = f"get a token for {self._endpoint.login}"
            hide = _hider(credentials)
            raise http_errors.of_broken(host, doing, broken, hide, has_answered=False) from broken
        return exchange.status, dict(exchange.headers), found or b""

    def _refused(self, host: str, status: int, credentials: Credentials | None) -> PermissionDenied:
        login = self._endpoint.login
        if credentials is None:
            without = f"there are no credentials for it in {looked_into(self._options)}"
            message = f"{host} gives no token for {login} without a login ({status}): {without}"
        else:
            message = (
                f"{host} refuses the credentials of {credentials.source} for {login} ({status})"
            )
        return PermissionDenied(message, remedy=f"use `docker login {login}`")


def _hider(credentials: Credentials | None) -> Callable[[str], str]:
    """Return what removes these credentials from a text."""
    secrets = credentials.secrets if credentials is not None else ()
    return lambda text: hidden(text, secrets)


def _token(host: str, body: bytes) -> Token:
    try:
        answer = msgspec.json.decode(body, type=_Answer)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        answer = _Answer()
    text = answer.token or answer.access_token or ""
    if not _SHOWABLE.fullmatch(text):
        message = f"{host} gave no token"
        raise Unavailable(message, remedy="check the token server of the registry")
    life_s = _DEFAULT_LIFE_S
    if answer.expires_in is not None and answer.expires_in > 0:
        life_s = answer.expires_in
    life_s -= min(_EARLY_S, life_s / 2)
    return Token(text=text, until_s=time.monotonic() + life_s)
