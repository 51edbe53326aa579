"""A real gRPC server on a real socket over a fake core, and both clients of it."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any, Self, TypeVar

import pytest

from shim.client import AsyncClient, Client
from shim.entry.cli.app import main
from shim.model import CreateRequest, TaskRef
from shim.service.endpoint import Endpoint
from shim.service.server import Server
from shim.service.service import Service
from tests.wire.fakes import FakeTask, FakeTasks, service_of

_Result = TypeVar("_Result")
Cryo = Callable[..., tuple[int, str, str]]

GRACE_S = 5.0
# A program may take many seconds to start; a wait ends before the call that it is in.
_EVENT_S = 60.0
_CALL_S = _EVENT_S + 30.0


@contextlib.asynccontextmanager
async def serving(
    core: FakeTasks, address: str, service: Service | None = None
) -> AsyncIterator[Server]:
    """Serve a core for as long as it is wanted, and stop as `cryo serve` does."""
    server = Server(service or service_of(core), Endpoint(address))
    await server.start()
    try:
        yield server
    finally:
        core.release.set()
        await server.stop(core.close, GRACE_S)


@pytest.fixture
def address(tmp_path: Path) -> str:
    """Give an address whose folder does not exist yet."""
    return f"unix://{tmp_path}/run/cryo.sock"


@pytest.fixture
async def core() -> FakeTasks:
    """Make a core without tasks."""
    return FakeTasks()


@pytest.fixture
async def server(core: FakeTasks, address: str) -> AsyncIterator[Server]:
    """Serve the core on the test's own loop."""
    async with serving(core, address) as server:
        yield server


@pytest.fixture
async def client(server: Server, address: str) -> AsyncIterator[AsyncClient]:
    """Make an async client of the server."""
    async with AsyncClient(address, timeout_s=60.0) as client:
        yield client


class Sidecar:
    """The server on a thread with a loop of its own, for tests that block."""

    def __init__(self, address: str) -> None:
        self.address = address
        self._loop = asyncio.new_event_loop()
        self._ready = threading.Event()
        self._stop: asyncio.Event
        self.core: FakeTasks
        self.service: Service
        self._thread = threading.Thread(target=self._loop.run_until_complete, args=(self._main(),))

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._ready.wait(10)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(20)
        assert not self._thread.is_alive()
        self._loop.close()

    async def _main(self) -> None:
        self.core, self._stop = FakeTasks(), asyncio.Event()
        self.service = service_of(self.core)
        async with serving(self.core, self.address, self.service):
            self._ready.set()
            await self._stop.wait()

    def call(self, make: Callable[[], Coroutine[Any, Any, _Result]]) -> _Result:
        """Run a coroutine on the server's loop."""
        return asyncio.run_coroutine_threadsafe(make(), self._loop).result(_CALL_S)

    def wait_for(self, event: asyncio.Event) -> None:
        """Wait until something has happened in the core, such as a request of a new program."""
        self.call(lambda: asyncio.wait_for(event.wait(), _EVENT_S))

    def do(self, action: Callable[..., Any], *arguments: Any) -> None:
        """Do something on the server's loop, where asyncio's objects may be touched."""

        async def act() -> None:
            action(*arguments)

        self.call(act)


@pytest.fixture
def sidecar(address: str) -> Iterator[Sidecar]:
    """Serve a core on a thread."""
    with Sidecar(address) as sidecar:
        yield sidecar


@pytest.fixture
def blocking(sidecar: Sidecar) -> Iterator[Client]:
    """Make a blocking client of the sidecar."""
    with Client(sidecar.address, timeout_s=60.0) as client:
        yield client


@pytest.fixture
def cryo(sidecar: Sidecar, capfd: pytest.CaptureFixture[str]) -> Cryo:
    """Run the command line in this process; return exit code, stdout and stderr."""

    def run(*argv: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as caught:
            main(["-a", sidecar.address, *argv])
        out, err = capfd.readouterr()
        assert isinstance(caught.value.code, int)
        return caught.value.code, out, err

    return run


@pytest.fixture
def task(sidecar: Sidecar) -> FakeTask:
    """Put a task `a` into the core."""
    ref = TaskRef(namespace="default", id="a")
    made = FakeTask(CreateRequest(ref=ref, bundle="/b"))
    sidecar.core.tasks[ref] = made
    return made
