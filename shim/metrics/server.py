"""An HTTP server with one page, `/metrics`: a request, an answer, and the connection is closed."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from shim.errors import CryoError
from shim.host.background import BackgroundTasks
from shim.service import listen_address
from shim.service.endpoint import Endpoint
from shim.service.listen_address import ListenAddress

_log = logging.getLogger(__name__)
_PATH = "/metrics"
_HEAD_BYTES = 16 << 10
_HEAD_S = 10.0
_ANSWER_S = 30.0
_CONNECTIONS = 16
_EARLY = (TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, OSError)

Scrape = Callable[[str], Awaitable[tuple[bytes, str]]]
"""Takes the value of Accept; returns a body and its content type."""


class MetricsServer:
    """Serves scrapes on one address, from `start` to `stop`."""

    def __init__(self, address: ListenAddress, group: str, scrape: Scrape) -> None:
        """Take where to listen, the group that may connect to a unix socket, and what answers."""
        self._address = address
        self._endpoint = Endpoint(address.path, group) if address.path else None
        self._scrape = scrape
        self._background = BackgroundTasks()
        self._server: asyncio.Server | None = None

    async def start(self) -> str:
        """Listen; return the address in the form of a URL or of a path.

        Raises:
            AlreadyExists: another process serves the socket.
            Unavailable: the address cannot be bound.
        """
        if self._endpoint is None:
            sock = self._address.listener("metrics", "metrics")
            self._server = await asyncio.start_server(self._take, sock=sock, limit=_HEAD_BYTES)
            return listen_address.url(sock)
        self._endpoint.lock()
        try:
            sock = self._endpoint.listener()
            self._server = await asyncio.start_unix_server(self._take, sock=sock, limit=_HEAD_BYTES)
        except BaseException:
            self._endpoint.release()
            raise
        return f"unix:{self._endpoint.path}"

    async def stop(self) -> None:
        """Refuse new connections, cancel those that are left, and remove the socket."""
        if self._server is not None:
            self._server.close()
            if self._endpoint is not None:
                self._endpoint.path.unlink(missing_ok=True)
                self._endpoint.release()
        await self._background.aclose()

    def _take(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if len(self._background.names) >= _CONNECTIONS:
            _log.warning("refused a scrape: %d are under way", _CONNECTIONS)
            writer.close()
            return
        self._background.start(self._serve(reader, writer), name="a scrape")

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(_HEAD_S):
                head = await reader.readuntil(b"\r\n\r\n")
            async with asyncio.timeout(_ANSWER_S):
                writer.write(await self._answer(head))
                await writer.drain()
        except _EARLY as error:
            _log.debug("a scrape ended early: %s", error)
        finally:
            writer.close()

    async def _answer(self, head: bytes) -> bytes:
        request, *lines = head.decode("latin-1").split("\r\n")
        method, _, rest = request.partition(" ")
        path = rest.partition(" ")[0].partition("?")[0]
        if path != _PATH:
            return _response("404 Not Found", b"the metrics are at /metrics\n")
        if method not in {"GET", "HEAD"}:
            return _response("405 Method Not Allowed", b"GET only\n", extra="Allow: GET, HEAD\r\n")
        try:
            body, kind = await self._scrape(_header(lines, "accept"))
        except CryoError as error:
            _log.warning("a scrape failed: %s", error)
            return _response("503 Service Unavailable", f"{error}\n".encode())
        return _response("200 OK", body, kind, with_body=method == "GET")


def _header(lines: list[str], name: str) -> str:
    for line in lines:
        key, _, value = line.partition(":")
        if key.strip().lower() == name:
            return value.strip()
    return ""


def _response(
    status: str,
    body: bytes,
    kind: str = "text/plain; charset=utf-8",
    *,
    extra: str = "",
    with_body: bool = True,
) -> bytes:
    head = (
        f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n"
        f"{extra}Connection: close\r\n\r\n"
    )
    return head.encode("ascii") + (body if with_body else b"")
