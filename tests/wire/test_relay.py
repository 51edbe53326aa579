"""The sidecar's relay to shims, over real sockets: shims that serve, hang, or have ended."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import cast

import pytest

from shim.entry import relay as relays
from shim.entry.relay import Relay
from shim.errors import DeadlineExceeded, Unavailable
from shim.model import CheckpointOptions, CreateRequest, Progress, Stdio, TaskRef
from shim.state import TaskState
from shim.task import record as records
from shim.task.record import TaskRecord
from shim.task.tasks import Tasks
from shim.wire import ttrpc_cryo, ttrpc_task
from shim.wire.drain import Drain
from shim.wire.task_methods import TaskMethods
from tests.wire.fakes import AT, RESULT, FakeTask, FakeTasks
from tests.wire.helpers_ttrpc import serving


def ref(name: str) -> TaskRef:
    """Name a task."""
    return TaskRef(namespace="ns", id=name)


def recorded(folder: Path, name: str, *, paused: bool = False) -> Path:
    """Write the record of a shim's task, which runs; return the shim's socket."""
    path = folder / f"{name}.sock"
    task = folder / "shims" / "x" / "tasks" / "ns" / name
    task.mkdir(parents=True)
    pid = os.getpid()
    start = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
    records.save(
        task,
        TaskRecord(
            ref=ref(name),
            bundle="/b",
            stdio=Stdio(),
            created_at=AT,
            owner=str(path),
            pid=pid,
            start=start,
            paused=paused,
        ),
    )
    return path


@contextlib.asynccontextmanager
async def a_shim(
    folder: Path, name: str, core: FakeTasks | None = None
) -> AsyncIterator[FakeTasks]:
    """Serve a shim with one running task."""
    core = core or FakeTasks()
    core.tasks[ref(name)] = FakeTask(
        CreateRequest(ref=ref(name), bundle="/b"), state=TaskState.RUNNING
    )
    methods = TaskMethods(core, Drain(), lambda _request: None)
    table = {**ttrpc_task.services(methods, "ns"), **ttrpc_cryo.services(core)}
    async with serving(table, recorded(folder, name)):
        yield core


@contextlib.contextmanager
def a_hung_shim(folder: Path, name: str, *, paused: bool = False) -> Iterator[None]:
    """Listen as a shim that is stopped does: the kernel connects, and nobody answers."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(recorded(folder, name, paused=paused)))
        listener.listen()
        yield


@pytest.fixture
async def relay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Relay:
    """Make the relay of a sidecar without tasks of its own, which loses its patience soon."""
    monkeypatch.setattr(relays, "_LOOK_S", 0.3)
    return Relay(cast("Tasks", FakeOwn()), tmp_path, rollback_s=0.3)


class FakeOwn(FakeTasks):
    """The sidecar's own tasks: none."""

    def has(self, _ref: TaskRef) -> bool:
        """Own nothing."""
        return False


async def test_shims_are_asked_side_by_side(relay: Relay, tmp_path: Path) -> None:
    """A list asks all shims at once: each of these answers when all three have been asked."""
    together = asyncio.Barrier(3)

    class Waiting(FakeTasks):
        async def state(self, ref: TaskRef, exec_id: str = "") -> object:  # type: ignore[override]
            await together.wait()
            return await super().state(ref, exec_id)

    async with contextlib.AsyncExitStack() as stack:
        for name in "abc":
            await stack.enter_async_context(a_shim(tmp_path, name, Waiting()))
        views = await relay.list("ns")

    assert [(view.id, view.state, view.warning) for view in views] == [
        (name, TaskState.RUNNING, "") for name in "abc"
    ]


async def test_shim_that_hangs_is_listed_as_such(relay: Relay, tmp_path: Path) -> None:
    """A task whose shim does not answer is in the list, as its record has it, with a warning."""
    async with a_shim(tmp_path, "a"):
        with a_hung_shim(tmp_path, "b"), a_hung_shim(tmp_path, "c", paused=True):
            views = await relay.list("ns")

    assert [(view.id, view.state) for view in views] == [
        ("a", TaskState.RUNNING),
        ("b", TaskState.RUNNING),
        ("c", TaskState.PAUSED),
    ]
    assert views[0].warning == ""
    assert all("its shim does not answer" in view.warning for view in views[1:])


async def test_shim_that_has_gone_is_listed_as_such(relay: Relay, tmp_path: Path) -> None:
    """A task whose shim was killed is in the list, with a warning."""
    recorded(tmp_path, "a")

    (view,) = await relay.list("ns")

    assert "its shim does not answer" in view.warning


def descriptors() -> int:
    """Count what this process has open."""
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


async def test_no_connection_is_kept(relay: Relay, tmp_path: Path) -> None:
    """Of shims that were listed, at once and again, and have ended, no descriptor stays open."""
    before = descriptors()
    for number in range(5):
        async with a_shim(tmp_path, f"a{number}"):
            await asyncio.gather(relay.list("ns"), relay.list("ns"), relay.pids(ref(f"a{number}")))

    assert descriptors() <= before


@contextlib.asynccontextmanager
async def a_checkpoint(relay: Relay, core: FakeTasks) -> AsyncIterator[asyncio.Task[object]]:
    """Have a shim's checkpoint under way."""
    core.hold = True
    said: list[Progress] = []
    task: asyncio.Task[object] = asyncio.create_task(
        relay.checkpoint(ref("a"), CheckpointOptions(), said.append)
    )
    await core.holding.wait()
    yield task


async def test_cancelled_checkpoint_is_rolled_back(relay: Relay, tmp_path: Path) -> None:
    """Who cancels a checkpoint of a shim's task gets the cancellation when it is undone there."""
    async with a_shim(tmp_path, "a") as core, a_checkpoint(relay, core) as task:
        task.cancel()

        with pytest.raises(asyncio.CancelledError):
            await task
        assert core.rolled_back.is_set()


async def test_checkpoint_that_was_complete_is_told(relay: Relay, tmp_path: Path) -> None:
    """A cancellation that comes too late gives the result: the image is there."""

    class Committed(FakeTasks):
        async def checkpoint(self, *arguments: object) -> object:  # type: ignore[override]
            with contextlib.suppress(asyncio.CancelledError):
                await super().checkpoint(*arguments)  # type: ignore[arg-type]
            return RESULT

    async with a_shim(tmp_path, "a", Committed()) as core, a_checkpoint(relay, core) as task:
        task.cancel()

        assert await task == RESULT


async def test_shim_that_does_not_roll_back_is_told(relay: Relay, tmp_path: Path) -> None:
    """A shim that takes too long to undo a checkpoint is an error that says so."""
    core = FakeTasks()
    core.rollback_s = 2.0
    async with a_shim(tmp_path, "a", core), a_checkpoint(relay, core) as task:
        task.cancel()

        with pytest.raises(DeadlineExceeded, match="its shim did not say"):
            await task


async def test_shim_that_dies_in_a_checkpoint_is_told(relay: Relay, tmp_path: Path) -> None:
    """The end of the shim ends the call with an error, cancelled or not."""
    async with contextlib.AsyncExitStack() as stack:
        core = await stack.enter_async_context(a_shim(tmp_path, "a"))
        task = await stack.enter_async_context(a_checkpoint(relay, core))
        closing = asyncio.create_task(stack.aclose())
        with pytest.raises(Unavailable):
            await task
        await closing
