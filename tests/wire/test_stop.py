"""A stop finishes what is under way, ends waiting calls, and is over in time."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from shim.client import AsyncClient
from shim.errors import Cancelled, Unavailable
from shim.service import address as addresses
from shim.service.endpoint import Endpoint
from shim.service.server import Server
from tests.wire.fakes import RESULT, FakeTasks, service_of


async def start(address: str) -> tuple[Server, FakeTasks]:
    """Serve a core that will be stopped by the test."""
    core = FakeTasks()
    server = Server(service_of(core), Endpoint(address))
    await server.start()
    return server, core


async def test_a_checkpoint_may_finish(address: str) -> None:
    """What the core finishes while it closes still reaches its caller."""
    server, core = await start(address)
    core.hold = True
    async with AsyncClient(address) as client:
        checkpoint = asyncio.create_task(client.checkpoint("a"))
        await asyncio.wait_for(core.holding.wait(), 60)

        async def close() -> None:
            core.release.set()
            await core.close()

        await server.stop(close, 10)

        assert await checkpoint == RESULT
    assert core.closed


async def test_a_core_that_rolls_back_is_reported(address: str) -> None:
    """What the core cancels while it closes reaches its caller as cancelled."""
    server, core = await start(address)
    core.hold = True
    async with AsyncClient(address) as client:
        checkpoint = asyncio.create_task(client.checkpoint("a"))
        await asyncio.wait_for(core.holding.wait(), 60)

        async def close() -> None:
            assert core.holder is not None
            core.holder.cancel()

        await server.stop(close, 10)

        with pytest.raises(Cancelled):
            await checkpoint
    assert core.rolled_back.is_set()


async def test_waits_are_ended(address: str) -> None:
    """A Wait ends as unavailable: the task keeps running, only the sidecar stops."""
    server, core = await start(address)
    async with AsyncClient(address) as client:
        await client.create("a", "/b")
        wait = asyncio.create_task(client.wait("a"))
        await asyncio.wait_for(core.waiting.wait(), 60)
        begun = time.monotonic()
        await server.stop(core.close, 10)
        took_s = time.monotonic() - begun

        with pytest.raises(Unavailable, match="stopping") as caught:
            await wait
    assert "keeps running" in caught.value.remedy
    assert took_s < 4


async def test_new_calls_are_refused_meanwhile(address: str) -> None:
    """While the core closes, nothing new begins."""
    server, core = await start(address)
    async with AsyncClient(address) as client:
        await client.images()
        core.calls.clear()

        async def close() -> None:
            with pytest.raises(Unavailable):
                await client.images()

        await server.stop(close, 10)

    assert core.calls == []


async def test_a_core_that_hangs_is_left(address: str) -> None:
    """The grace bounds the stop, and the hung calls end at their clients."""
    server, core = await start(address)
    core.hold = True
    async with AsyncClient(address) as client:
        checkpoint = asyncio.create_task(client.checkpoint("a"))
        await asyncio.wait_for(core.holding.wait(), 60)
        begun = time.monotonic()
        with pytest.raises(TimeoutError):
            await server.stop(asyncio.Event().wait, 0.3)  # type: ignore[arg-type]  # never ends
        took_s = time.monotonic() - begun

        with pytest.raises((Unavailable, Cancelled)):
            await checkpoint
    assert took_s < 5


async def test_the_address_is_free_afterwards(address: str) -> None:
    """The socket is gone and the next sidecar may have its place at once."""
    server, core = await start(address)
    await server.stop(core.close, 5)

    assert not Path(addresses.parse(address)).exists()
    server, core = await start(address)
    await server.stop(core.close, 5)


async def test_health_says_that_it_stops(address: str) -> None:
    """A watcher sees SERVING, then NOT_SERVING before the end."""
    server, core = await start(address)
    seen = []
    async with grpc.aio.insecure_channel(address) as channel:
        stub: Any = health_pb2_grpc.HealthStub(channel)
        watch = stub.Watch(health_pb2.HealthCheckRequest(service="cryo.v1.Cryo"))
        seen.append((await watch.read()).status)
        stop = asyncio.create_task(server.stop(core.close, 5))
        seen.append((await watch.read()).status)
        await stop

    assert seen == [1, 2]
