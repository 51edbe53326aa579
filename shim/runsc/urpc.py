"""Calls to the sentry over its control socket: a hundred times faster than a runsc command.

The protocol is runsc's own and undocumented (pkg/urpc/urpc.go; the core set of methods did not
change from 2022 to 2026), so it is used only for reads and for what no command can do. On any
unexpected answer the caller uses the command instead.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import socket
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from shim.errors import Unavailable

_TIMEOUT_S = 2.0
_LIMIT_BYTES = 4 << 20
_CHUNK_BYTES = 64 << 10
# Up to, not including, the next quote or bracket; an escape is consumed as a pair.
_REST_OF_STRING = re.compile(rb'(?:[^"\\]++|\\.)*+', re.DOTALL)
_REST_OF_PLAIN = re.compile(rb'[^"{}\[\]]*+')


class CallFailed(Unavailable):
    """The sentry answered with an error."""


class NotSent(Unavailable):
    """There is no sentry to call."""


async def call(
    path: Path,
    method: str,
    argument: object,
    *,
    timeout_s: float = _TIMEOUT_S,
    limit_bytes: int = _LIMIT_BYTES,
    fds: Sequence[int] = (),
) -> Any:
    """Call a method of the sentry with copies of the descriptors `fds`; return its result.

    Raises:
        CallFailed: the answer is an error.
        NotSent: nothing listens at the socket.
        Unavailable: no answer in time, or an answer of another form.
    """
    try:
        async with asyncio.timeout(timeout_s):
            request = {"method": method, "arg": argument}
            return await _exchange(path, request, fds, Document(limit_bytes))
    except (OSError, TimeoutError, ValueError, RecursionError) as error:
        message = f"the sentry does not answer {method}: {error}"
        raise Unavailable(message) from error


@contextlib.contextmanager
def reachable(path: Path) -> Iterator[str]:
    """Name a socket through a descriptor: an address is limited to 108 bytes, a path is not.

    Kubernetes ids make paths that are too long; runsc then uses a descriptor too.
    """
    fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{fd}"
    finally:
        os.close(fd)


async def _exchange(
    path: Path, request: dict[str, object], fds: Sequence[int], whole: Document
) -> Any:
    data = json.dumps(request).encode()
    try:
        connection = await _connect(path)
    except OSError as error:
        message = f"the sentry does not answer {request['method']}: {error}"
        raise NotSent(message) from error
    try:
        if fds:  # sent with the first byte
            socket.send_fds(connection, [data[:1]], list(fds))
            data = data[1:]
        reader, writer = await asyncio.open_unix_connection(sock=connection)
    except BaseException:
        connection.close()
        raise
    try:
        writer.write(data)
        await writer.drain()
        answer = await _read(reader, whole)
    finally:
        writer.close()
    success = answer.get("success") if isinstance(answer, dict) else None
    if success is True:
        return answer.get("result")
    said = f"it answered {str(answer)[:200]}"
    if success is False:
        message = f"the sentry does not answer {request['method']}: {said}"
        raise CallFailed(message)
    raise ValueError(said)


async def _connect(path: Path) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX)
    connection.setblocking(False)
    try:
        with reachable(path) as address:
            await asyncio.get_running_loop().sock_connect(connection, address)
    except BaseException:
        connection.close()
        raise
    return connection


async def _read(reader: asyncio.StreamReader, whole: Document) -> Any:
    """Read one JSON document; the protocol has no framing, so its syntax determines its end."""
    while not whole.complete:
        data = await reader.read(_CHUNK_BYTES)
        if not data:
            message = "the answer is truncated"
            raise ValueError(message)
        whole.feed(data)
    return whole.value()


class Document:
    """One JSON object or array that arrives in chunks, each scanned once."""

    def __init__(self, limit_bytes: int = _LIMIT_BYTES) -> None:
        self._limit_bytes = limit_bytes
        self._data = bytearray()
        self._at = 0
        self._depth = 0
        self._in_string = False
        self.complete = False

    def feed(self, data: bytes) -> None:
        """Add the next chunk.

        Raises:
            ValueError: the document is too long.
        """
        self._data += data
        if len(self._data) > self._limit_bytes:
            message = f"the answer is longer than {self._limit_bytes} bytes"
            raise ValueError(message)
        while not self.complete and self._step():
            pass

    def _step(self) -> bool:
        """Scan to the next mark; False when it has not arrived yet."""
        # Both patterns match anywhere, if only nothing.
        if self._in_string:
            self._at = _REST_OF_STRING.match(self._data, self._at).end()  # type: ignore[union-attr]
        else:
            self._at = _REST_OF_PLAIN.match(self._data, self._at).end()  # type: ignore[union-attr]
        mark = self._data[self._at : self._at + 1]
        if not mark or mark == b"\\":
            return False  # an escape split across chunks is scanned again with the next one
        self._at += 1
        if mark == b'"':
            self._in_string = not self._in_string
        else:
            self._depth += 1 if mark in b"{[" else -1
        self.complete = self._depth <= 0 and not self._in_string
        return True

    def value(self) -> Any:
        """Decode the document.

        Raises:
            ValueError: it is not JSON.
        """
        return json.loads(self._data[: self._at].decode("utf-8", "replace"))
