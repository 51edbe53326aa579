"""Uploads a blob to a registry: a session, and then all of the blob in one request."""

from __future__ import annotations

import contextlib
from http import HTTPStatus
from typing import IO

from shim.distribution.authorization import Access
from shim.distribution.blob import Descriptor
from shim.distribution.connections import Exchange
from shim.distribution.endpoint import follow, origin_of, with_query
from shim.distribution.registry_client import Call, RegistryClient
from shim.distribution.retry import Passing, retrying
from shim.errors import CryoError, ImageCorrupt, Unavailable
from shim.host.oserror import typed

_BEGUN = frozenset({HTTPStatus.ACCEPTED})
_STORED = frozenset({HTTPStatus.CREATED})
_REMOVED = frozenset({HTTPStatus.NO_CONTENT, HTTPStatus.NOT_FOUND})
_ABANDON_S = 5.0


class _Content:
    """The content of a blob as a body: exactly as many bytes as its descriptor has."""

    def __init__(self, content: IO[bytes], descriptor: Descriptor) -> None:
        self._content = content
        self._digest = descriptor.digest
        self.size_bytes = descriptor.size
        self._left = descriptor.size

    def rewind(self) -> None:
        try:
            self._content.seek(0)
        except OSError as error:
            raise typed(error, f"read {self._digest}") from error
        self._left = self.size_bytes

    def read(self, amount: int = -1, /) -> bytes:
        """Read the next part; urllib3 would take an OSError for one of the connection."""
        wanted = self._left if amount < 0 else min(amount, self._left)
        if not wanted:
            return b""
        try:
            found = self._content.read(wanted)
        except OSError as error:
            raise typed(error, f"read {self._digest}") from error
        if not found:
            message = f"{self._digest} is shorter than it was: {self._left} bytes are missing"
            raise ImageCorrupt(message, remedy="do not change an image while it is pushed")
        self._left -= len(found)
        return found


class Upload:
    """One blob on its way to a registry."""

    def __init__(self, client: RegistryClient, descriptor: Descriptor, content: IO[bytes]) -> None:
        self._client = client
        self._descriptor = descriptor
        self._content = _Content(content, descriptor)
        self._doing = f"push {descriptor.digest}"

    def run(self) -> None:
        """Upload it, from its start again where that is broken for a reason that passes."""
        retrying(self._send, self._client.options, self._client.connections.closed)

    def _send(self) -> None:
        session = self._begin()
        try:
            self._put(session)
        except BaseException as error:
            # A registry removes sessions that it could not finish, but only after days.
            if not isinstance(error, Passing):
                self._abandon(session)
            raise

    def _begin(self) -> str:
        """Return the URL of a new session."""
        url = self._client.endpoint.at("blobs", "uploads", "")
        exchange = self._client.send_once(self._call("POST", url, _BEGUN, body=b""))
        exchange.close()
        return self._location(exchange, url)

    def _put(self, session: str) -> None:
        url = with_query(session, digest=self._descriptor.digest)
        headers = {"Content-Type": "application/octet-stream"}
        deadline_s = self._client.options.deadline_s(self._descriptor.size)
        call = self._call(
            "PUT", url, _STORED, body=self._content, headers=headers, deadline_s=deadline_s
        )
        self._client.send_once(call).close()

    def _abandon(self, session: str) -> None:
        """Remove the session, if that works at once: the registry removes it later anyway."""
        if self._client.connections.closed.is_set():
            return
        with contextlib.suppress(CryoError, Passing):
            call = self._call("DELETE", session, _REMOVED, deadline_s=_ABANDON_S)
            self._client.send_once(call).close()

    def _location(self, exchange: Exchange, url: str) -> str:
        location = exchange.headers.get("Location", "")
        if not location:
            message = f"{origin_of(url).host} names no place for an upload: cannot {self._doing}"
            raise Unavailable(message, remedy="check the registry and the proxies before it")
        return follow(url, location)

    def _call(
        self,
        method: str,
        url: str,
        expected: frozenset[HTTPStatus],
        *,
        body: _Content | bytes | None = None,
        headers: dict[str, str] | None = None,
        deadline_s: float | None = None,
    ) -> Call:
        return Call(
            method=method,
            url=url,
            doing=self._doing,
            access=Access.PUSH,
            expected=frozenset(map(int, expected)),
            headers=headers or {},
            body=body,
            deadline_s=deadline_s or self._client.options.deadline_s(),
        )
