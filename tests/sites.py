"""A small HTTP server in this process: it answers by a function, and may break HTTP's rules."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import BinaryIO, Self

_JOIN_S = 30.0


@dataclass(frozen=True)
class Request:
    """A request; the names of headers are in lowercase."""

    method: str
    target: str
    headers: dict[str, str]
    body: bytes

    @property
    def path(self) -> str:
        """Return the target without its query."""
        return self.target.partition("?")[0]


Answer = Callable[[Request], bytes | None]
"""Returns the bytes of the answer; None closes the connection without one."""


def reply(status: int, body: bytes = b"", /, **headers: object) -> bytes:
    """Return an answer with a Content-Length, unless another one is given."""
    lines: dict[str, object] = {"Content-Length": len(body)}
    lines |= {name.replace("_", "-"): value for name, value in headers.items()}
    head = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
    return f"HTTP/1.1 {status} X\r\n{head}\r\n".encode("latin-1") + body


class Broken(Exception):
    """Raised by an answer: these bytes are sent, and then the connection is closed."""

    def __init__(self, beginning: bytes) -> None:
        super().__init__()
        self.beginning = beginning


class Hanging(Exception):
    """Raised by an answer: these bytes are sent, and nothing more until the server is closed."""

    def __init__(self, beginning: bytes = b"") -> None:
        super().__init__()
        self.beginning = beginning


class Tunnel(Exception):
    """Raised by an answer: from now on the connection is one to this host."""

    def __init__(self, host: str) -> None:
        super().__init__()
        self.host = host

    def run(self, client: socket.socket) -> None:
        """Forward both directions until one side ends."""
        name, _, port = self.host.rpartition(":")
        with socket.create_connection((name, int(port))) as server:
            client.sendall(reply(200))
            back = threading.Thread(target=_forward, args=(server, client), daemon=True)
            back.start()
            _forward(client, server)
            back.join(_JOIN_S)


class Endless(Exception):
    """Raised by an answer: `first` is sent, and then `again` until the client closes."""

    def __init__(self, first: bytes, again: bytes, every_s: float = 0.0) -> None:
        super().__init__()
        self.first, self.again, self.every_s = first, again, every_s


_TLS_HANDSHAKE = b"\x16"


class Site:
    """Serves on the loopback interface while the block runs, with a thread per connection."""

    def __init__(self, answer: Answer, tls: ssl.SSLContext | None = None) -> None:
        self.answer = answer
        self.requests: list[Request] = []
        self.hung = threading.Event()
        self._tls = tls
        self._closed = threading.Event()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._lock = threading.Lock()
        self._open: set[socket.socket] = set()
        self._threads = [threading.Thread(target=self._accept, daemon=True)]

    @property
    def host(self) -> str:
        """Return the host and the port."""
        return f"127.0.0.1:{self._listener.getsockname()[1]}"

    @property
    def url(self) -> str:
        """Return the URL of its root."""
        return f"{'https' if self._tls else 'http'}://{self.host}"

    def methods(self) -> list[str]:
        """List the methods of the requests."""
        return [request.method for request in self.requests]

    def __enter__(self) -> Self:
        self._threads[0].start()
        return self

    def __exit__(self, *_: object) -> None:
        self._closed.set()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        with self._lock:
            for connection in self._open:
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(_JOIN_S)
            assert not thread.is_alive()

    def _accept(self) -> None:
        while not self._closed.is_set():
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            thread = threading.Thread(target=self._serve, args=(connection,), daemon=True)
            with self._lock:
                self._open.add(connection)
            self._threads.append(thread)
            thread.start()

    def _serve(self, connection: socket.socket) -> None:
        with contextlib.suppress(OSError, ValueError), connection:
            used = connection
            if self._tls is not None:
                used = self._tls.wrap_socket(connection, server_side=True)
                with self._lock:
                    self._open.add(used)
            with used, used.makefile("rb") as reader:
                while (request := _read(reader)) is not None and self._answered(used, request):
                    pass

    def _answered(self, connection: socket.socket, request: Request) -> bool:
        self.requests.append(request)
        try:
            answer = self.answer(request)
        except Broken as broken:
            connection.sendall(broken.beginning)
            return False
        except Hanging as hanging:
            connection.sendall(hanging.beginning)
            self.hung.set()
            self._closed.wait()
            return False
        except Tunnel as tunnel:
            tunnel.run(connection)
            return False
        except Endless as endless:
            connection.sendall(endless.first)
            while not self._closed.wait(endless.every_s):
                connection.sendall(endless.again)
            return False
        if answer is None:
            return False
        connection.sendall(answer)
        return True


def _forward(one: socket.socket, other: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while piece := one.recv(1 << 16):
            other.sendall(piece)
    for each in (one, other):
        with contextlib.suppress(OSError):
            each.shutdown(socket.SHUT_RDWR)


def _read(reader: BinaryIO) -> Request | None:
    """Read a request; None at the end of the connection, or if it begins as TLS does."""
    beginning = reader.read(1)
    # The rest of a TLS handshake is random, and may have no end of a line to wait for.
    if beginning in (b"", _TLS_HANDSHAKE):
        return None
    first = beginning + reader.readline(1 << 16)
    method, target, _ = first.decode("latin-1").split(" ", 2)
    headers: dict[str, str] = {}
    while line := reader.readline(1 << 16).strip():
        name, _, value = line.decode("latin-1").partition(":")
        headers[name.lower()] = value.strip()
    length = int(headers.get("content-length", "0"))
    body = reader.read(length)
    if len(body) < length:
        return None
    return Request(method, target, headers, body)
