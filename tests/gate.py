"""A way to a server that lets some bytes pass, and then holds all that follows."""

from __future__ import annotations

import contextlib
import socket
import threading
from typing import Self

_PIECE_BYTES = 16 << 10
_JOIN_S = 30.0


class Gate:
    """Forwards connections of the loopback interface to a host, which may change."""

    def __init__(self, target: str) -> None:
        self.target = target
        self.held = threading.Event()
        """Whether something waits at the gate."""
        self._opened = threading.Event()
        self._opened.set()
        self._lock = threading.Lock()
        self._left_bytes: int | None = None
        self._closed = False
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._sockets: set[socket.socket] = set()
        self._threads = [threading.Thread(target=self._accept, daemon=True)]

    @property
    def host(self) -> str:
        """Return the host and the port to use in place of the server's."""
        return f"127.0.0.1:{self._listener.getsockname()[1]}"

    def hold_after(self, count: int) -> None:
        """Let so many bytes pass, of both directions."""
        with self._lock:
            self._left_bytes = count
            self.held.clear()
            self._opened.clear()

    def open(self) -> None:
        """Let everything pass."""
        with self._lock:
            self._left_bytes = None
        self._opened.set()

    def cut(self) -> None:
        """End all connections, and let those pass that come later."""
        with self._lock:
            for each in self._sockets:
                with contextlib.suppress(OSError):
                    each.shutdown(socket.SHUT_RDWR)
        self.open()

    def __enter__(self) -> Self:
        self._threads[0].start()
        return self

    def __exit__(self, *_: object) -> None:
        self._closed = True
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.cut()
        for thread in self._threads:
            thread.join(_JOIN_S)
            assert not thread.is_alive()
        for each in self._sockets:
            each.close()

    def _accept(self) -> None:
        while not self._closed:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            host, _, port = self.target.rpartition(":")
            try:
                server = socket.create_connection((host, int(port)))
            except OSError:
                client.close()
                continue
            with self._lock:
                self._sockets |= {client, server}
            for one, other in ((client, server), (server, client)):
                thread = threading.Thread(target=self._forward, args=(one, other), daemon=True)
                self._threads.append(thread)
                thread.start()

    def _forward(self, one: socket.socket, other: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while piece := one.recv(_PIECE_BYTES):
                self._pass(len(piece))
                other.sendall(piece)
        for each in (one, other):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)

    def _pass(self, count: int) -> None:
        with self._lock:
            if self._left_bytes is None:
                return
            self._left_bytes -= count
            if self._left_bytes >= 0:
                return
            self.held.set()
        self._opened.wait()
