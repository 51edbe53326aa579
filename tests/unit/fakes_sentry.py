"""A sentry's control socket: answers calls as configured, and keeps what it was asked."""

from __future__ import annotations

import json
import os
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

Answer = Callable[[Any, list[int]], object]
"""Called with a call's argument and descriptors; returns its result, or raises `Refusal`."""

_CHUNK = 1 << 16
_FDS = 8


class Refusal(Exception):
    """The sentry answers with this error."""


class Hangup(Exception):
    """The sentry closes the connection without an answer."""


class FakeSentry:
    """Serves each connection in a thread of its own; one call for each, as clients do."""

    def __init__(self, path: Path, answers: dict[str, Answer]) -> None:
        self.requests: list[tuple[str, Any]] = []
        self._answers = answers
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen()
        self._threads: list[threading.Thread] = []
        self._accepting = threading.Thread(target=self._accept)
        self._accepting.start()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            thread = threading.Thread(target=self._serve, args=(connection,))
            self._threads.append(thread)
            thread.start()

    def _serve(self, connection: socket.socket) -> None:
        with connection:
            data, fds, _flags, _address = socket.recv_fds(connection, _CHUNK, _FDS)
            try:
                request = self._whole(connection, data)
                if request is not None:
                    self._answer(connection, request, fds)
            finally:
                for fd in fds:
                    os.close(fd)

    def _whole(self, connection: socket.socket, data: bytes) -> dict[str, Any] | None:
        while True:
            try:
                return dict(json.loads(data))
            except ValueError:
                more = connection.recv(_CHUNK)
                if not more:
                    return None
                data += more

    def _answer(self, connection: socket.socket, request: dict[str, Any], fds: list[int]) -> None:
        self.requests.append((request["method"], request["arg"]))
        try:
            result = self._answers[request["method"]](request["arg"], fds)
        except Hangup:
            return
        except Refusal as error:
            answer: dict[str, object] = {"success": False, "err": str(error)}
        else:
            answer = {"success": True, "err": "", "result": result}
        try:
            connection.sendall(json.dumps(answer).encode())
        except BrokenPipeError:
            return  # the caller did not wait

    def close(self) -> None:
        """Serve what is begun, and stop."""
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for thread in (self._accepting, *self._threads):
            thread.join(10.0)
            assert not thread.is_alive()
