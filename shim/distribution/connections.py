"""Requests on connections that threads share, each of which ends at its deadline or on close."""

from __future__ import annotations

import contextlib
import re
import threading
from collections.abc import Iterator, Mapping
from typing import Protocol

import urllib3
from urllib3.exceptions import HTTPError, ProtocolError

from shim import __version__
from shim.distribution.http_options import HttpOptions
from shim.distribution.http_pools import Pools
from shim.distribution.watch import Watch
from shim.errors import Cancelled

_PIECE_BYTES = 1 << 20
# How much of an answer is read only to use its connection again.
_REST_BYTES = 64 << 10
_LENGTH = re.compile(r"[0-9]{1,20}")
_AGENT = f"cryoshim/{__version__}"


class Body(Protocol):
    """What a request sends; it is read from its start for each attempt."""

    size_bytes: int

    def rewind(self) -> None:
        """Go back to its start."""

    def read(self, amount: int = -1, /) -> bytes:
        """Read the next part."""


class Broken(Exception):
    """There is no complete answer; `expired` if the time for it was over."""

    def __init__(self, cause: HTTPError, *, expired: bool) -> None:
        super().__init__(str(cause))
        self.cause = cause
        self.expired = expired


class Exchange:
    """A request that was sent, and its answer, which the caller reads or closes."""

    def __init__(
        self, response: urllib3.BaseHTTPResponse, watch: Watch, owner: Connections
    ) -> None:
        self.status = response.status
        self.headers: Mapping[str, str] = response.headers
        self._response = response
        self._watch = watch
        self._owner = owner
        self._is_whole = False

    @property
    def length(self) -> int | None:
        """Return the Content-Length, None if there is none."""
        text = self.headers.get("Content-Length", "")
        return int(text) if _LENGTH.fullmatch(text) else None

    def pieces(self) -> Iterator[bytes]:
        """Yield the body.

        Raises:
            Broken: it has another length than was announced, or does not arrive in time.
        """
        try:
            yield from self._response.stream(_PIECE_BYTES, decode_content=False)
        except HTTPError as error:
            raise Broken(error, expired=self._watch.expired) from error
        _check_cut(self._watch)
        self._is_whole = True

    def read(self, limit_bytes: int) -> bytes | None:
        """Return the body, or None if it is larger."""
        found = bytearray()
        for piece in self.pieces():
            found += piece
            if len(found) > limit_bytes:
                return None
        return bytes(found)

    def close(self) -> None:
        """Give the connection back if little of the answer is left, else close it."""
        left = self._response.length_remaining
        if not self._is_whole and left is not None and left <= _REST_BYTES:
            with contextlib.suppress(Broken):  # the caller did not want the rest
                self.read(_REST_BYTES)
        if not self._is_whole:
            self._response.close()
        self._owner.end(self._watch)
        self._response.release_conn()


class Connections:
    """The pools. All methods may be called from several threads."""

    def __init__(self, options: HttpOptions) -> None:
        self._options = options
        self._lock = threading.Lock()
        self._watches: set[Watch] = set()
        self.closed = threading.Event()
        self._pools = Pools(options)

    def open(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str],
        *,
        deadline_s: float,
        body: Body | bytes | None = None,
    ) -> Exchange:
        """Send a request; it and its answer take no longer than the deadline.

        Raises:
            Broken: there is no answer.
            Cancelled: the client is closed.
        """
        sent = {"User-Agent": _AGENT, "Accept-Encoding": "identity", **headers}
        if body is not None:
            length = len(body) if isinstance(body, bytes) else body.size_bytes
            sent["Content-Length"] = str(length)
        pools = self._pools.of(url)
        watch = self._begin(deadline_s)
        try:
            with watch:
                response = pools.urlopen(
                    method,
                    url,
                    body=body,
                    headers=sent,
                    retries=False,
                    redirect=False,
                    preload_content=False,
                    decode_content=False,
                )
        except HTTPError as error:
            self.end(watch)
            raise Broken(error, expired=watch.expired) from error
        except BaseException:
            self.end(watch)
            raise
        exchange = Exchange(response, watch, self)
        try:
            # http.client takes headers that are cut for complete ones.
            _check_cut(watch)
        except Broken:
            exchange.close()
            raise
        return exchange

    def end(self, watch: Watch) -> None:
        """Forget a request that has ended."""
        watch.end()
        with self._lock:
            self._watches.discard(watch)

    def close(self) -> None:
        """Cut what is in use, and close the rest. Idempotent."""
        with self._lock:
            self.closed.set()
            running = list(self._watches)
        for watch in running:
            watch.cut()
        self._pools.clear()

    def check(self) -> None:
        """Raise if the client is closed.

        Raises:
            Cancelled: it is.
        """
        if self.closed.is_set():
            message = "the connection to the registry was closed"
            raise Cancelled(message)

    def _begin(self, deadline_s: float) -> Watch:
        with self._lock:
            self.check()
            watch = Watch(deadline_s, self._options.answer_s)
            self._watches.add(watch)
        return watch


def _check_cut(watch: Watch) -> None:
    if watch.is_cut:
        raise Broken(ProtocolError("the connection was cut"), expired=watch.expired)
