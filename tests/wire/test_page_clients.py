"""Clients of the page that are slow, gone, or too many: they hold nothing of the sidecar."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest
from msgspec.structs import replace

from shim.client import AsyncClient
from shim.config import Http
from shim.model import CheckpointOptions, TaskView
from shim.page import connection, feed, server
from shim.state import TaskState
from tests.wire.fakes import AT, FakeTasks
from tests.wire.helpers_page import WAIT_S, request, served

TASK = TaskView(
    namespace="default",
    id="a",
    bundle="/b",
    pid=1,
    state=TaskState.RUNNING,
    created_at=AT,
)


async def until(what: Callable[[], bool]) -> None:
    """Wait for something of the sidecar that has no event."""
    async with asyncio.timeout(WAIT_S):
        while not what():  # noqa: ASYNC110  # bounded, and there is no event
            await asyncio.sleep(0.01)


def rendering() -> list[str]:
    """Name what renders live parts."""
    return [one.get_name() for one in asyncio.all_tasks() if "live parts" in one.get_name()]


async def test_nothing_is_rendered_for_nobody(
    address: str, caplog: pytest.LogCaptureFixture
) -> None:
    """What renders begins with the first who watches, and ends with the last."""
    async with served(address, caplog) as sidecar:
        await sidecar.ask("/")
        assert rendering() == []
        async with sidecar.events() as one, sidecar.events() as other:
            await one.next()
            await other.next()
            assert len(rendering()) == 1
        await until(lambda: not rendering())
        async with sidecar.events() as again:
            await again.next()
            assert len(rendering()) == 1
        await until(lambda: not rendering())


async def test_a_client_that_does_not_read(
    address: str,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It is left after a time, and neither an operation nor another client waits for it."""
    monkeypatch.setattr(connection, "STALLED_S", 1.0)
    core = ManyTasks()
    http = Http(address=f"unix:{tmp_path}/own/page.sock")
    async with served(address, caplog, http, core) as sidecar, AsyncClient(address) as client:
        (sidecar.state / "tasks" / "default").mkdir(parents=True)
        _, writer = await sidecar.connect()
        writer.transport.pause_reading()  # type: ignore[attr-defined]  # it is one of a socket
        writer.write(request("/events"))
        await until(lambda: bool(rendering()))
        async with sidecar.events() as reading:
            for _ in range(20):
                await client.checkpoint("a", CheckpointOptions())
                await reading.until("tasks", "changed")
        await until(lambda: not rendering())
        assert (await sidecar.ask("/healthz")).status == 200
        writer.transport.abort()


class ManyTasks(FakeTasks):
    """A list of tasks that is long, and always another."""

    async def list(self, namespace: str) -> list[TaskView]:
        """List them."""
        self.begin("list", namespace)
        warning = f"changed {len(self.calls)} " + "x" * 500
        return [replace(TASK, id=f"task-{number}", warning=warning) for number in range(300)]


async def test_a_client_that_sends_nothing(
    address: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its connection is closed, whether nothing, a part of a request, or one request came."""
    monkeypatch.setattr(connection, "HEAD_S", 0.3)
    async with served(address, caplog) as sidecar:
        for beginning in (b"", b"GET / HT", request("/healthz", connection="keep-alive") + b"GET"):
            reader, writer = await sidecar.connect()
            writer.write(beginning)
            async with asyncio.timeout(WAIT_S):
                data = await read_all(reader)
            assert data.count(b"HTTP/1.1") == beginning.count(b"keep-alive")
            writer.close()


async def test_a_head_that_does_not_end(address: str, caplog: pytest.LogCaptureFixture) -> None:
    """It is not kept in memory: the connection is closed before the end of it."""
    async with served(address, caplog) as sidecar:
        reader, writer = await sidecar.connect()
        writer.write(request("/", x="y" * (1 << 22)))
        async with asyncio.timeout(WAIT_S):
            assert not (await read_all(reader)).startswith(b"HTTP/1.1 200")
        writer.close()


async def read_all(reader: asyncio.StreamReader) -> bytes:
    """Read to the end, which may be a reset."""
    data = b""
    try:
        while piece := await reader.read(1 << 16):
            data += piece
    except ConnectionResetError:
        pass
    return data


async def test_windows_and_connections_are_counted(
    address: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One more than there may be is refused, and says so; the page without it still works."""
    monkeypatch.setattr(feed, "READERS_MAX", 1)
    monkeypatch.setattr(server, "_CONNECTIONS", 4)
    async with served(address, caplog) as sidecar:
        async with sidecar.events():
            refused = await sidecar.ask("/events")
            assert refused.status == 503
            assert "windows show live progress" in refused.body
            assert (await sidecar.ask("/")).status == 200
            idle = [await sidecar.connect() for _ in range(4)]
            assert (await sidecar.ask("/")).status == 503
            for _, writer in idle:
                writer.close()
        async with sidecar.events() as events:
            await events.next()


async def test_a_sidecar_that_stops_ends_the_streams(
    address: str, caplog: pytest.LogCaptureFixture
) -> None:
    """It does not wait for those who watch, and says nothing of them in its log."""
    async with served(address, caplog, core=FakeTasks()) as sidecar:
        reader, writer = await sidecar.connect()
        writer.write(request("/events"))
        await reader.readuntil(b"retry")
    async with asyncio.timeout(WAIT_S):
        await read_all(reader)
    writer.close()
    assert [one for one in caplog.records if one.levelname in {"WARNING", "ERROR"}] == []
