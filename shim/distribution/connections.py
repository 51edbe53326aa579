"""Connections to the hosts of a registry, in pools that threads share; urllib3 does the HTTP."""

from __future__ import annotations

import contextlib
import re
import socket
import ssl
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

import urllib3
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.exceptions import HTTPError, ProtocolError

from shim import __version__
from shim.distribution import watch as watches
from shim.distribution.http_options import HttpOptions
from shim.distribution.watch import Cuttable, Watch
from shim.errors import Cancelled, InvalidArgument
from shim.host.files import read_bounded

_PIECE_BYTES = 1 << 20
_BLOCK_BYTES = 256 << 10
# How much of an answer is read only to use its connection again.
_REST_BYTES = 64 << 10
_MAX_CA_BYTES = 4 << 20
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


class _Plain(HTTPConnection):
    """A connection that the watch of its request can cut; sending has the timeout of an answer."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._cuttable = Cuttable()

    def _new_conn(self) -> socket.socket:
        made = super()._new_conn()
        self._cuttable.take(made)
        if watch := watches.current():
            watch.use(self._cuttable)
        return made

    def request(self, *arguments: Any, **options: Any) -> None:
        if self.sock is None:
            self.connect()
        if watch := watches.current():
            watch.use(self._cuttable)
            self.timeout = watch.answer_s
        super().request(*arguments, **options)

    def close(self) -> None:
        self._cuttable.close()
        super().close()


class _Secure(_Plain, HTTPSConnection):
    """The same over TLS."""


class _PlainPool(HTTPConnectionPool):
    ConnectionCls = _Plain


class _SecurePool(HTTPSConnectionPool):
    ConnectionCls = _Secure


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
        timeout = urllib3.Timeout(connect=options.connect_s, read=options.answer_s)
        self._pools = urllib3.PoolManager(
            maxsize=64, timeout=timeout, blocksize=_BLOCK_BYTES, ssl_context=_tls(options)
        )
        self._pools.pool_classes_by_scheme = {"http": _PlainPool, "https": _SecurePool}

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
        watch = self._begin(deadline_s)
        try:
            with watch:
                response = self._pools.urlopen(
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


def _tls(options: HttpOptions) -> ssl.SSLContext:
    """Return the settings of TLS: the CAs of the system, and the one that is given.

    Raises:
        InvalidArgument: the file has no certificate.
    """
    context = ssl.create_default_context()
    if options.ca_file is None:
        return context
    data = read_bounded(Path(options.ca_file), _MAX_CA_BYTES, nofollow=False)
    try:
        context.load_verify_locations(cadata=data.decode("ascii"))
    except (ssl.SSLError, ValueError) as error:
        message = f"{options.ca_file} has no certificate in PEM"
        raise InvalidArgument(message, remedy="name the file of the CA's certificate") from error
    return context
