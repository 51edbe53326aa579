"""One end of a supervisor connection, with the messages still to be sent."""

from __future__ import annotations

import os
import socket
from collections import deque

from shim.host.supervisor import wire
from shim.host.unix_socket import Credentials, peer_credentials, peer_is_allowed

_OUTBOX_MAX = 8192


class Peer:
    """A connection. `deaf` means that the peer does not read its answers."""

    def __init__(self, sock: socket.socket) -> None:
        """Take ownership of a connected socket."""
        sock.setblocking(False)
        self.sock = sock
        self._outbox: deque[tuple[bytes, list[int]]] = deque()

    @property
    def pending(self) -> bool:
        """Return whether messages are queued because the peer has not read yet."""
        return bool(self._outbox)

    @property
    def deaf(self) -> bool:
        """Return whether more messages are queued than a working client lets accumulate."""
        return len(self._outbox) > _OUTBOX_MAX

    def credentials(self) -> Credentials:
        """Return the peer's credentials at the time of the connection."""
        return peer_credentials(self.sock)

    def allowed(self) -> bool:
        """Return whether the peer is root or this process's user."""
        return peer_is_allowed(self.sock)

    def send(self, message: wire.Message, fds: list[int]) -> None:
        """Send a message or queue it; the caller keeps the descriptors."""
        self._outbox.append((wire.encode(message), [os.dup(fd) for fd in fds]))
        self.flush()

    def flush(self) -> None:
        """Send as many queued messages as the peer accepts now.

        Raises:
            OSError: the peer is gone.
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
        """Close the connection and discard unsent messages."""
        for _, fds in self._outbox:
            wire.close_all(fds)
        self._outbox.clear()
        self.sock.close()
