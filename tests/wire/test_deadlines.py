"""How long a client waits for an answer: its own limit for a question, the owner's for a change."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from shim.client import AsyncClient
from shim.config import Timeouts
from shim.errors import DeadlineExceeded
from shim.model import CreateRequest, Stdio, TaskRef
from shim.service import task_operations as operations
from shim.service.operation import Call
from shim.service.server import Server
from shim.state import TaskState
from tests.wire.fakes import FakeHostInfo, FakeTask, FakeTasks

REF = TaskRef(namespace="ns", id="a")
WAIT_S = 60


class SlowTasks(FakeTasks):
    """Tasks whose changes and questions are answered only once the test says so."""

    def __init__(self) -> None:
        super().__init__()
        self.begun = asyncio.Event()
        self.host_info = SlowHost(self)

    async def pause(self, ref: TaskRef) -> None:
        """Pause when released."""
        self.begun.set()
        await self.release.wait()
        await super().pause(ref)

    async def resume(self, ref: TaskRef) -> None:
        """Resume when released."""
        self.begun.set()
        await self.release.wait()
        await super().resume(ref)


class SlowHost(FakeHostInfo):
    """A host that is described when the test says so."""

    def __init__(self, core: SlowTasks) -> None:
        super().__init__(core)
        self._slow = core

    async def info(self) -> dict[str, str]:
        """Answer when released."""
        await self._slow.release.wait()
        return await super().info()


@pytest.fixture
async def core() -> SlowTasks:
    """Make a slow core with one running task."""
    core = SlowTasks()
    core.tasks[REF] = FakeTask(CreateRequest(ref=REF, bundle="/b"), state=TaskState.RUNNING)
    return core


@pytest.mark.parametrize(
    ("change", "after"),
    ((AsyncClient.pause, TaskState.PAUSED), (AsyncClient.resume, TaskState.RUNNING)),
    ids=("pause", "resume"),
)
async def test_a_change_outlasts_the_limit_of_a_question(
    core: SlowTasks,
    server: Server,
    address: str,
    change: Callable[[AsyncClient, str], Awaitable[None]],
    after: TaskState,
) -> None:
    """A park of a large GPU takes longer than any question, and is answered all the same."""
    async with AsyncClient(address, namespace="ns", timeout_s=0.2) as client:
        changing = asyncio.ensure_future(change(client, "a"))
        async with asyncio.timeout(WAIT_S):
            await core.begun.wait()
        # Asked after the change, this question has the usual limit, which passes.
        with pytest.raises(DeadlineExceeded):
            await client.info()
        assert not changing.done()
        core.release.set()
        async with asyncio.timeout(WAIT_S):
            await changing

    assert core.tasks[REF].state is after


@pytest.mark.parametrize(
    "call",
    (
        operations.create(REF, "/b"),
        operations.start(REF, ""),
        operations.kill(REF, 15),
        operations.exec_(REF, "e", {"args": ["x"]}, Stdio()),
        operations.delete(REF, ""),
        operations.pause(REF),
        operations.resume(REF),
        operations.update(REF, {}),
    ),
    ids=lambda call: call.operation.name,
)
def test_changes_are_bounded_by_their_owner(call: Call[object]) -> None:
    """A client's limit is beyond every default deadline of the settings."""
    assert call.timeout_s is not None
    assert call.timeout_s > max(Timeouts.__struct_defaults__)


def test_kill_is_bounded_by_the_client() -> None:
    """SIGKILL waits for nothing in the owner, so its client's usual limit holds."""
    assert operations.kill(REF, 9).timeout_s is None
