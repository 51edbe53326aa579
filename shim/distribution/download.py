"""Downloads a blob from a registry; a broken download goes on where it ended."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from http import HTTPStatus

from shim.distribution import artifact
from shim.distribution.authorization import Access
from shim.distribution.blob import Descriptor
from shim.distribution.connections import Broken, Exchange
from shim.distribution.registry_client import Call, RegistryClient
from shim.distribution.retry import Attempts, Passing

_STATUSES = frozenset({int(HTTPStatus.OK), int(HTTPStatus.PARTIAL_CONTENT)})
_RANGE = re.compile(r"bytes (\d{1,20})-\d{1,20}/(?:\d{1,20}|\*)")


class Download:
    """One blob on its way from a registry."""

    def __init__(self, client: RegistryClient, descriptor: Descriptor) -> None:
        self._client = client
        self._descriptor = descriptor
        self._doing = f"pull {descriptor.digest}"
        self._where = f"{client.endpoint.login}: {descriptor.digest}"
        self._url = client.endpoint.at("blobs", descriptor.digest)
        self._hash = hashlib.sha256()
        self._at = 0

    def pieces(self) -> Iterator[bytes]:
        """Yield the content.

        Raises:
            ImageCorrupt: it has another size, or in the end another digest.
        """
        attempts = Attempts(self._client.options, self._client.connections.closed)
        while True:
            before = self._at
            try:
                yield from self._attempt()
                break
            except Passing as passing:
                if self._at > before:
                    attempts.progressed()
                attempts.wait(passing)
        if f"sha256:{self._hash.hexdigest()}" != self._descriptor.digest:
            raise artifact.corrupt(self._where, "it has another content")

    def _attempt(self) -> Iterator[bytes]:
        exchange = self._open()
        try:
            skipped = self._at - self._begins(exchange)
            yield from self._read(exchange, skipped)
        except Broken as broken:
            raise self._client.broken(broken, self._url, self._doing) from broken
        finally:
            exchange.close()
        self._check_size(self._at)

    def _check_size(self, found: int | None) -> None:
        size = self._descriptor.size
        if found not in {None, size}:
            raise artifact.corrupt(self._where, f"it has {found} bytes and not {size}")

    def _open(self) -> Exchange:
        headers = {"Accept": "application/octet-stream, */*"}
        if self._at:
            headers["Range"] = f"bytes={self._at}-"
        call = Call(
            method="GET",
            url=self._url,
            doing=self._doing,
            access=Access.PULL,
            expected=_STATUSES,
            headers=headers,
            deadline_s=self._client.options.deadline_s(self._descriptor.size),
        )
        return self._client.send_once(call)

    def _begins(self, exchange: Exchange) -> int:
        """Return the offset in the blob at which an answer begins; check its size."""
        if exchange.status == HTTPStatus.OK:
            self._check_size(exchange.length)
            return 0
        found = _RANGE.fullmatch(exchange.headers.get("Content-Range", ""))
        if found is None or int(found[1]) != self._at:
            raise artifact.corrupt(self._where, "the answer is another part than was asked for")
        return self._at

    def _read(self, exchange: Exchange, skipped: int) -> Iterator[bytes]:
        for piece in exchange.pieces():
            rest = piece[skipped:]
            skipped -= len(piece) - len(rest)
            if self._at + len(rest) > self._descriptor.size:
                raise artifact.corrupt(
                    self._where, f"it has more than {self._descriptor.size} bytes"
                )
            if rest:
                self._hash.update(rest)
                self._at += len(rest)
                yield rest
