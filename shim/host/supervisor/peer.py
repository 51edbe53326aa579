"""One connected client of the supervisor, and what is still to be sent to it."""

from __future__ import annotations

import os
import socket
from collections import deque

from shim.host.supervisor import wire
from shim.host.unix_socket import Credentials, peer_credentials, peer_is_allowed

_OUTBOX_MAX = 8192


class Peer:
    """A connection. `deaf` means that it does not read what it asked for."""

    def __init__(self, sock: socket.socket) -> None:
        """Take over an accepted socket."""
        sock.setblocking(False)
        self.sock = sock
        self._outbox: deque[tuple[bytes, list[int]]] = deque()

    @property
    def pending(self) -> bool:
        """Return whether something waits for the peer to read."""
        return bool(self._outbox)

    @property
    def deaf(self) -> bool:
        """Return whether more waits than a living client would let wait."""
        return len(self._outbox) > _OUTBOX_MAX

    def credentials(self) -> Credentials:
        """Return who was at the other end when the connection was made."""
        return peer_credentials(self.sock)

    def allowed(self) -> bool:
        """Return whether the peer is root or our own user."""
        return peer_is_allowed(self.sock)

    def send(self, message: wire.Message, fds: list[int]) -> None:
        """Send, or keep for later; the descriptors stay the caller's."""
        self._outbox.append((wire.encode(message), [os.dup(fd) for fd in fds]))
        self.flush()

    def flush(self) -> None:
        """Send what the peer takes now.

        Raises:
            OSError: it is gone.
        """
        while self._outbox:
            data, fds = self._outbox[0]
            try:
                wire.send(self.sock, data, fds)
            except BlockingIOError:
                return
            self._outbox.popleft()
            wire.close_all(fds)

    def close(self) -> None:
        """Let go of the connection and of what was never sent."""
        for _, fds in self._outbox:
            wire.close_all(fds)
        self._outbox.clear()
        self.sock.close()
