"""A stream to a TCP port of a sandbox's loopback, through the sentry, as `runsc port-forward` does.

The sentry connects to 127.0.0.1 in its own network stack and copies to and from a descriptor that
it is given (portForward in runsc/boot/loader.go), so it needs no program in the image, and no
network on the host that leads to the container. It ends a stream as a whole: once it has read the
end of the data, it sends nothing more. A save fails while a stream is open (measured), so a stream
is closed only once the sentry has closed its end.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import NamedTuple

from shim.errors import CryoError, IllegalState, InvalidArgument, Unavailable, Unimplemented
from shim.runsc import urpc

_METHOD = "containerManager.PortForward"
_PORT_MAX = 65535
_CLOSE_S = 2.0
_CHUNK_BYTES = 64 << 10


class PortStream(NamedTuple):
    """Both directions of a connection."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter


@contextlib.asynccontextmanager
async def open_stream(
    control: Path, container: str, port: int, *, timeout_s: float
) -> AsyncIterator[PortStream]:
    """Connect to a port of the loopback of a container's sandbox; close the stream at the end.

    `timeout_s` is for the connection; what is read and written needs its own deadline.

    Raises:
        InvalidArgument: it is not a port.
        Unavailable: nothing listens there, there is no loopback, or the sentry does not answer.
        IllegalState: the container is not running.
        Unimplemented: runsc cannot do this with the sandbox's network.
    """
    if not 0 < port <= _PORT_MAX:
        message = f"{port} is not a TCP port"
        raise InvalidArgument(message, remedy=f"use a port from 1 to {_PORT_MAX}")
    ours, theirs = socket.socketpair()
    try:
        with theirs:
            await _forward(control, container, port, theirs.fileno(), timeout_s)
        reader, writer = await asyncio.open_unix_connection(sock=ours)
    except BaseException:
        ours.close()
        raise
    try:
        yield PortStream(reader, writer)
    finally:
        await _close(reader, writer)


async def _forward(control: Path, container: str, port: int, fd: int, timeout_s: float) -> None:
    argument = {"ContainerID": container, "Port": port}
    try:
        await urpc.call(control, _METHOD, argument, fds=[fd], timeout_s=timeout_s)
    except urpc.CallFailed as error:
        raise _explained(error, port) from error
    except urpc.NotSent as error:
        raise Unavailable(error.message) from error


def _explained(error: urpc.CallFailed, port: int) -> CryoError:
    """Return the typed error for what the sentry answered."""
    said = error.message
    if "threadgroup" in said or "not started" in said:
        message = f"no connection to port {port}: the container is not running"
        return IllegalState(message, remedy="start it first")
    if "unsupported network" in said:
        message = "runsc does not connect to ports of a sandbox with this network"
        remedy = 'use network = "sandbox" under [runsc.flags], or a hook or check by exec'
        return Unimplemented(message, remedy=remedy)
    if "refused" in said:
        message = f"nothing listens on port {port} of the sandbox's loopback"
        return Unavailable(message, remedy="listen on 127.0.0.1 or on all addresses")
    if "no route to host" in said or "network is unreachable" in said:
        message = f"no connection to port {port}: the sandbox has no loopback interface"
        remedy = (
            "set lo up in its network namespace (ip -n NAME link set lo up) before the container "
            "is created: runsc copies only interfaces that are up"
        )
        return Unavailable(message, remedy=remedy)
    return error


async def _close(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Close the stream, and wait until the sentry has closed its end."""
    try:
        with contextlib.suppress(OSError, TimeoutError):
            async with asyncio.timeout(_CLOSE_S):
                writer.write_eof()
                while await reader.read(_CHUNK_BYTES):
                    pass
    finally:
        writer.transport.abort()
