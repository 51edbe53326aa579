"""A save waits until no stream of ours is open to the sandbox, and lets none be opened."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from shim.errors import Busy
from shim.runsc import open_streams
from shim.runsc.open_streams import OpenStreams
from shim.runsc.port_forward import PortStream

CONTROL, OTHER = Path("/run/a.sock"), Path("/run/b.sock")
WAIT_S = 10.0


@contextlib.asynccontextmanager
async def connection() -> AsyncIterator[tuple[PortStream, PortStream]]:
    """Give both ends of a stream: ours, and the sentry's."""
    ends = [await asyncio.open_unix_connection(sock=one) for one in socket.socketpair()]
    try:
        yield PortStream(*ends[0]), PortStream(*ends[1])
    finally:
        for _, writer in ends:
            writer.transport.abort()


async def echo_end(theirs: PortStream) -> None:
    """Do as the sentry does: read to the end of the data, and close."""
    await theirs.reader.read()
    theirs.writer.close()


async def save(streams: OpenStreams) -> None:
    """Stand for a save of the sandbox."""
    async with streams.closed(CONTROL):
        pass


async def test_a_save_ends_an_open_stream() -> None:
    """Its user reads the end of the data; the save waits until the stream is closed."""
    streams = OpenStreams()
    async with connection() as (ours, theirs), asyncio.timeout(WAIT_S):
        with streams.opening(CONTROL) as use:
            use.connected(ours)
            saving = asyncio.create_task(save(streams))
            await echo_end(theirs)
            assert await ours.reader.read() == b""
            assert not saving.done()
        await saving


async def test_a_stream_that_is_being_connected() -> None:
    """It is ended as soon as it is there."""
    streams = OpenStreams()
    async with connection() as (ours, theirs), asyncio.timeout(WAIT_S):
        with streams.opening(CONTROL) as use:
            saving = asyncio.create_task(save(streams))
            await asyncio.sleep(0)
            use.connected(ours)
            await echo_end(theirs)
            assert await ours.reader.read() == b""
        await saving


async def test_no_stream_is_opened_during_a_save() -> None:
    """To this sandbox; one to another is opened, and each again afterwards."""
    streams = OpenStreams()
    async with streams.closed(CONTROL):
        with pytest.raises(Busy, match="is being saved"), streams.opening(CONTROL):
            pytest.fail("it was opened")
        with streams.opening(OTHER):
            pass
    with streams.opening(CONTROL):
        pass


async def test_a_stream_that_does_not_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """The save goes on after a while: runsc says what became of it."""
    monkeypatch.setattr(open_streams, "_CLOSE_S", 0.01)
    streams = OpenStreams()
    with streams.opening(CONTROL):
        await asyncio.wait_for(save(streams), WAIT_S)
