"""A question to the sentry over its control socket: a hundred times faster than a runsc command.

The wire is runsc's own and not documented (pkg/urpc/urpc.go; the core set of methods has not
changed from 2022 to 2026), so only a read is done this way, or what no command can do, and whatever
is not as expected makes the caller use the command instead.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from shim.errors import Unavailable

_TIMEOUT_S = 2.0
_LIMIT_BYTES = 4 << 20


async def call(
    path: Path,
    method: str,
    argument: object,
    *,
    timeout_s: float = _TIMEOUT_S,
    fds: Sequence[int] = (),
) -> Any:
    """Call a method of the sentry and return its result; it gets copies of the descriptors `fds`.

    Raises:
        Unavailable: no socket, no answer in time, an error, or an answer of another form.
    """
    try:
        async with asyncio.timeout(timeout_s):
            return await _exchange(path, {"method": method, "arg": argument}, fds)
    except (OSError, TimeoutError, ValueError, RecursionError) as error:
        message = f"the sentry does not answer {method}: {error}"
        raise Unavailable(message) from error


@contextlib.contextmanager
def reachable(path: Path) -> Iterator[str]:
    """Name a socket by a descriptor: an address must fit in 108 bytes, a path need not.

    With the ids of Kubernetes it does not; runsc itself goes by a descriptor then.
    """
    fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{fd}"
    finally:
        os.close(fd)


async def _exchange(path: Path, request: dict[str, object], fds: Sequence[int]) -> Any:
    data = json.dumps(request).encode()
    connection = await _connect(path)
    try:
        if fds:  # they travel with the first byte
            socket.send_fds(connection, [data[:1]], list(fds))
            data = data[1:]
        reader, writer = await asyncio.open_unix_connection(sock=connection, limit=_LIMIT_BYTES)
    except BaseException:
        connection.close()
        raise
    try:
        writer.write(data)
        await writer.drain()
        answer = await _document(reader)
    finally:
        writer.close()
    if not isinstance(answer, dict) or answer.get("success") is not True:
        message = f"it answered {str(answer)[:200]}"
        raise ValueError(message)
    return answer.get("result")


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


async def _document(reader: asyncio.StreamReader) -> Any:
    """Read one JSON document: nothing on the wire says where it ends but its own form."""
    decoder = json.JSONDecoder()
    text = ""
    while len(text) < _LIMIT_BYTES:
        data = await reader.read(_LIMIT_BYTES)
        text += data.decode("utf-8", "replace")
        try:
            return decoder.raw_decode(text)[0]
        except ValueError:
            if not data:
                raise
    message = "the answer is too long"
    raise ValueError(message)
