"""Ends a request from another thread: at its deadline, or when its client is closed."""

from __future__ import annotations

import contextlib
import socket
import threading
from typing import Self

_current = threading.local()


class Cuttable:
    """A second descriptor of a connection's socket, to cut it while another thread uses it.

    TLS wraps the socket and closes the first one; and http.client may close its own before the
    answer is read.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._second: socket.socket | None = None
        self._user: Watch | None = None
        self._is_closed = False

    def take(self, first: socket.socket) -> None:
        """Take the socket of a new connection."""
        second = first.dup()
        with self._lock:
            old, self._second, self._is_closed = self._second, second, False
        if old is not None:
            old.close()

    def used_by(self, watch: Watch) -> None:
        """Let a watch cut the connection until it ends."""
        with self._lock:
            self._user = watch

    def cut(self, watch: Watch) -> None:
        """Cut the connection if this watch is of its request."""
        with self._lock:
            if self._user is watch and self._second is not None:
                with contextlib.suppress(OSError):  # the peer has closed it
                    self._second.shutdown(socket.SHUT_RDWR)

    def released_by(self, watch: Watch) -> None:
        """End the use by a watch."""
        with self._lock:
            if self._user is watch:
                self._user = None
            self._close_if_unused()

    def close(self) -> None:
        """Close the descriptor, once no request uses it."""
        with self._lock:
            self._is_closed = True
            self._close_if_unused()

    def _close_if_unused(self) -> None:
        if self._is_closed and self._user is None and self._second is not None:
            self._second.close()
            self._second = None


class Watch:
    """The time that a request has; its connection is cut when that is over.

    A timeout of each read is not enough: a server that sends a byte now and then meets it forever.
    """

    def __init__(self, deadline_s: float, answer_s: float) -> None:
        self.answer_s = answer_s
        self.expired = False
        self._lock = threading.Lock()
        self._connection: Cuttable | None = None
        self.is_cut = False
        self._timer = threading.Timer(deadline_s, self._expire)
        self._timer.daemon = True
        self._timer.start()

    def __enter__(self) -> Self:
        """Make it the watch of the request that this thread sends."""
        _current.watch = self
        return self

    def __exit__(self, *_: object) -> None:
        _current.watch = None

    def use(self, connection: Cuttable) -> None:
        """Take the connection that the request uses now."""
        connection.used_by(self)
        with self._lock:
            self._connection = connection
            if self.is_cut:
                connection.cut(self)

    def cut(self) -> None:
        """Cut the connection; the thread that uses it gets an error."""
        with self._lock:
            self.is_cut = True
            if self._connection is not None:
                self._connection.cut(self)

    def end(self) -> None:
        """End the watch: other requests may use the connection. Idempotent."""
        self._timer.cancel()
        with self._lock:
            connection, self._connection = self._connection, None
        if connection is not None:
            connection.released_by(self)

    def _expire(self) -> None:
        self.expired = True
        self.cut()


def current() -> Watch | None:
    """Return the watch of the request that this thread sends."""
    found: Watch | None = getattr(_current, "watch", None)
    return found
