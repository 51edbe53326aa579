"""The connections to the fork server, up to their first bytes.

The fork server has one thread. It reads a connection only when something has come, so that a client
that sends nothing holds up no other.
"""

from __future__ import annotations

import os
import select
import socket
import time

from shim.host import unix_socket

# Each is a descriptor; the oldest one is closed when there are more.
_MOST = 256
_FIRST_BYTE_S = 10.0


class Arrivals:
    """A listener with the connections that have sent nothing yet."""

    def __init__(self, listener: socket.socket) -> None:
        listener.setblocking(False)
        self._listener = listener
        self._poll = select.poll()
        self._poll.register(listener, select.POLLIN)
        # Oldest first, each with the time at which it is closed.
        self._silent: dict[int, tuple[socket.socket, float]] = {}

    def next(self, idle_s: float) -> socket.socket | None:
        """Return a connection that has sent something or ended, or None after `idle_s`."""
        idle = time.monotonic() + idle_s
        while (now := time.monotonic()) < idle:
            self._drop(now)
            until = min([idle, *(at for _, at in self._silent.values())])
            for fd, _ in self._poll.poll(max(0.0, until - now) * 1000):
                if fd != self._listener.fileno():
                    return self._take(fd)
                self._accept()
        return None

    def _accept(self) -> None:
        try:
            peer, _ = self._listener.accept()
        except OSError:
            return  # it has left, or there are too many descriptors: `_drop` frees some
        if unix_socket.peer_credentials(peer).uid != os.geteuid():
            peer.close()
            return
        peer.setblocking(False)
        if len(self._silent) >= _MOST:
            self._take(next(iter(self._silent))).close()
        self._silent[peer.fileno()] = (peer, time.monotonic() + _FIRST_BYTE_S)
        self._poll.register(peer, select.POLLIN)

    def _take(self, fd: int) -> socket.socket:
        self._poll.unregister(fd)
        return self._silent.pop(fd)[0]

    def _drop(self, now: float) -> None:
        """Close what has been silent for too long."""
        for fd in [fd for fd, (_, at) in self._silent.items() if at <= now]:
            self._take(fd).close()

    def close(self) -> None:
        """Close all, here or in a fork."""
        self._listener.close()
        for peer, _ in self._silent.values():
            peer.close()
        self._silent.clear()
