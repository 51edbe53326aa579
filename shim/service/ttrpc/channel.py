"""Sends and receives frames over a connected unix socket, in bounded memory."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from typing import Self

from shim.service.ttrpc import frame
from shim.service.ttrpc.frame import Frame, Header, Kind

_log = logging.getLogger(__name__)

_SKIP_BYTES = 64 << 10

# Time for a peer to read the last frames before the socket is closed.
_FLUSH_S = 1.0


class Channel:
    """Reads and writes whole frames; one reader, any number of writers."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._turn = asyncio.Lock()

    @classmethod
    async def over(cls, connected: socket.socket) -> Self:
        """Wrap a connected socket; closing the channel closes it."""
        return cls(*await asyncio.open_unix_connection(sock=connected))

    async def receive(self) -> Frame | None:
        """Return the next frame; None if the connection ended, even within a frame."""
        try:
            header = frame.unpack(await self._reader.readexactly(frame.HEADER_SIZE))
            return Frame(header, await self._payload(header))
        except asyncio.IncompleteReadError as error:
            if error.partial:
                _log.debug("the peer disconnected within a frame")
        except OSError as error:
            _log.debug("the connection broke: %s", error)
        return None

    async def _payload(self, header: Header) -> bytes | None:
        if header.size_bytes <= frame.PAYLOAD_MAX:
            return await self._reader.readexactly(header.size_bytes)
        left = header.size_bytes
        while left:
            data = await self._reader.read(min(left, _SKIP_BYTES))
            if not data:
                raise ConnectionResetError
            left -= len(data)
        return None

    async def send(self, stream: int, kind: Kind, payload: bytes) -> None:
        """Write a frame after the earlier ones; a slow peer slows its writers.

        A cancellation never leaves a partial frame.

        Raises:
            OSError: the connection is closed.
        """
        async with self._turn:
            # Written in one step, so that only the wait can be cancelled.
            self._writer.write(frame.pack(stream, kind, payload))
            await self._writer.drain()

    async def close(self) -> None:
        """Flush what is written, for up to `_FLUSH_S`, and close the connection."""
        self._writer.close()
        try:
            with contextlib.suppress(TimeoutError, OSError):
                async with asyncio.timeout(_FLUSH_S):
                    await self._writer.wait_closed()
        finally:
            self._writer.transport.abort()
