"""The HTTP server of the page, in the event loop of the sidecar, from `start` to `stop`."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections.abc import Iterator

import uvicorn
from starlette.types import ASGIApp

from shim.host.background import BackgroundTasks
from shim.page.connection import Connection
from shim.service import listen_address
from shim.service.endpoint import Endpoint
from shim.service.listen_address import ListenAddress

_CONNECTIONS = 64
_HEAD_BYTES = 16 << 10
# For requests that are answered when the sidecar stops; streams have been ended before.
_GOODBYE_S = 2


class _Embedded(uvicorn.Server):
    """uvicorn's server, without its signal handlers: the sidecar has its own."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave the signals to the sidecar."""
        yield


class PageServer:
    """Serves an ASGI application on one address."""

    def __init__(self, app: ASGIApp, address: ListenAddress, group: str) -> None:
        """Take what answers, where to listen, and the group that may connect to a unix socket."""
        self._address = address
        self._endpoint = Endpoint(address.path, group) if address.path else None
        self._background = BackgroundTasks()
        self._serving: asyncio.Task[None] | None = None
        logging.getLogger("uvicorn.error").setLevel(logging.WARNING)
        self._server = _Embedded(
            uvicorn.Config(
                app,
                http=Connection,
                ws="none",
                lifespan="off",
                interface="asgi3",
                log_config=None,
                access_log=False,
                proxy_headers=False,
                server_header=False,
                limit_concurrency=_CONNECTIONS,
                h11_max_incomplete_event_size=_HEAD_BYTES,
                timeout_graceful_shutdown=_GOODBYE_S,
            )
        )

    def start(self) -> str:
        """Listen; return the address in the form of a URL or of a path.

        Raises:
            AlreadyExists: another process serves the socket.
            Unavailable: the address cannot be bound.
        """
        listener = self._listen()
        where = f"unix:{self._address.path}" if self._endpoint else listen_address.url(listener)
        self._serving = self._background.start(
            self._server.serve(sockets=[listener]), name="the page"
        )
        return where

    def _listen(self) -> socket.socket:
        if self._endpoint is None:
            return self._address.listener("the page", "http")
        self._endpoint.lock()
        try:
            return self._endpoint.listener()
        except BaseException:
            self._endpoint.release()
            raise

    async def stop(self) -> None:
        """Refuse new connections, end those that are left, and remove the socket."""
        self._server.should_exit = True
        if self._serving is not None:
            await asyncio.wait({self._serving}, timeout=_GOODBYE_S * 2.0)
        for connection in list(self._server.server_state.connections):
            connection.transport.abort()
        await self._background.aclose()
        if self._endpoint is not None:
            self._endpoint.path.unlink(missing_ok=True)
            self._endpoint.release()
