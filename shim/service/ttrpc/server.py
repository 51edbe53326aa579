"""A ttrpc server: accepts connections and serves each until it is closed."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections.abc import Callable

from shim.errors import CryoError, Unavailable
from shim.host.background import BackgroundTasks
from shim.host.unix_socket import peer_is_allowed
from shim.service.ttrpc.channel import Channel
from shim.service.ttrpc.connection import Connection
from shim.service.ttrpc.limits import Limits
from shim.service.ttrpc.method import Services

_log = logging.getLogger(__name__)

# Pause in accepting when file descriptors or memory run out.
_PAUSE_S = 0.5
_USUAL = Limits()
_STOPPING = Unavailable("the server is stopping")


class Server:
    """Serves unary methods on any number of listening sockets."""

    def __init__(
        self,
        services: Services,
        limits: Limits = _USUAL,
        on_idle: Callable[[], None] = lambda: None,
        admits: Callable[[socket.socket], bool] = peer_is_allowed,
    ) -> None:
        """Take the methods, what to call whenever the last connection has ended, and who may call.

        By default that is root and this process's user.
        """
        self._services = services
        self._limits = limits
        self._on_idle = on_idle
        self._admits = admits
        self._background = BackgroundTasks()
        self._listeners: set[socket.socket] = set()
        self._serving: dict[asyncio.Task[None], Connection | None] = {}

    def serve(self, listener: socket.socket) -> None:
        """Accept connections on a listening socket, and take ownership of it."""
        listener.setblocking(False)
        self._listeners.add(listener)
        self._listen(listener)

    async def close(self, grace_s: float = 0.0, refusal: CryoError = _STOPPING) -> None:
        """Stop accepting, let calls end for `grace_s` seconds, cancel the rest, and disconnect.

        New calls on open connections fail with `refusal` meanwhile.

        Returns when every call has ended, however long its rollback takes.
        """
        self._stop_listening()
        try:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(grace_s):
                    await asyncio.gather(
                        *(one.finish(refusal) for one in self._serving.values() if one is not None)
                    )
        finally:
            await self._cut()

    async def _cut(self) -> None:
        for serving in self._serving:
            serving.cancel()
        while self._serving:
            await asyncio.wait(self._serving)

    # -- listening -----------------------------------------------------------------------------

    def _listen(self, listener: socket.socket) -> None:
        if listener in self._listeners:
            loop = asyncio.get_running_loop()
            loop.add_reader(listener, self._accept, listener)

    def _stop_listening(self) -> None:
        loop = asyncio.get_running_loop()
        for listener in self._listeners:
            loop.remove_reader(listener)
            listener.close()
        self._listeners.clear()

    def _accept(self, listener: socket.socket) -> None:
        try:
            connected, _ = listener.accept()
        except (BlockingIOError, ConnectionAbortedError):
            return
        except OSError as error:
            _log.warning("cannot accept connections for %s s: %s", _PAUSE_S, error)
            loop = asyncio.get_running_loop()
            loop.remove_reader(listener)
            loop.call_later(_PAUSE_S, self._listen, listener)
            return
        if self._may_enter(connected):
            self._begin(connected)
        else:
            connected.close()

    def _may_enter(self, connected: socket.socket) -> bool:
        if not self._admits(connected):
            _log.warning("refused a connection from another user")
            return False
        if len(self._serving) >= self._limits.connections:
            _log.warning("refused a connection: there are %d already", len(self._serving))
            return False
        return True

    # -- connections ---------------------------------------------------------------------------

    def _begin(self, connected: socket.socket) -> None:
        serving = self._background.start(self._serve(connected), name="a ttrpc connection")
        self._serving[serving] = None
        serving.add_done_callback(self._end)

    def _end(self, serving: asyncio.Task[None]) -> None:
        del self._serving[serving]
        if not self._serving:
            self._on_idle()

    async def _serve(self, connected: socket.socket) -> None:
        try:
            channel = await Channel.over(connected)
        except BaseException:
            connected.close()
            raise
        connection = Connection(channel, self._services, self._limits.calls)
        this = asyncio.current_task()
        if this is not None:
            self._serving[this] = connection
        await connection.run()
