"""What the sidecar forwards to shims, over real sockets: shims that serve, hang, or have exited."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from shim.api.cryo.v1 import cryo_pb2
from shim.errors import Cancelled, DeadlineExceeded, Unavailable
from shim.model import CheckpointResult, CreateRequest, Progress, Stdio, TaskRef
from shim.service import cryo_operations, shims, task_operations
from shim.service.service import Beside, Service
from shim.service.shims import Shims
from shim.service.ttrpc_edge import shim_services
from shim.state import TaskState
from shim.task import record as records
from shim.task.record import TaskRecord
from tests.wire.fakes import AT, RESULT, FakeTask, FakeTasks, as_tasks, service_of
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
    table = shim_services(service_of(core), "ns")
    async with serving(table, recorded(folder, name)):
        yield core


@contextlib.contextmanager
def a_hung_shim(folder: Path, name: str, *, paused: bool = False) -> Iterator[None]:
    """Listen as a shim that is stopped does: the kernel connects, and no response comes."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(recorded(folder, name, paused=paused)))
        listener.listen()
        yield


@pytest.fixture
async def sidecar(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Service:
    """Make the service of a sidecar without tasks of its own, with short timeouts."""
    monkeypatch.setattr(shims, "_STATE_S", 0.3)
    return Service(as_tasks(FakeTasks()), shims=Shims(tmp_path, rollback_s=0.3))


async def pids(sidecar: Service, name: str) -> None:
    """List the processes of a task."""
    call = task_operations.pids(ref(name))
    beside = Beside(namespace=call.namespace)
    await sidecar.unary(call.operation, call.request.SerializeToString(), beside)


async def test_shims_are_asked_side_by_side(sidecar: Service, tmp_path: Path) -> None:
    """A list asks all shims at once: each of these answers when all three have been asked."""
    together = asyncio.Barrier(3)

    class Waiting(FakeTasks):
        async def state(self, ref: TaskRef, exec_id: str = "") -> object:  # type: ignore[override]
            await together.wait()
            return await super().state(ref, exec_id)

    async with contextlib.AsyncExitStack() as stack:
        for name in "abc":
            await stack.enter_async_context(a_shim(tmp_path, name, Waiting()))
        views = await sidecar.list_tasks("ns")

    assert [(view.id, view.state, view.warning) for view in views] == [
        (name, TaskState.RUNNING, "") for name in "abc"
    ]


async def test_shim_that_hangs_is_listed_as_such(sidecar: Service, tmp_path: Path) -> None:
    """A task whose shim does not answer is in the list, as its record has it, with a warning."""
    async with a_shim(tmp_path, "a"):
        with a_hung_shim(tmp_path, "b"), a_hung_shim(tmp_path, "c", paused=True):
            views = await sidecar.list_tasks("ns")

    assert [(view.id, view.state) for view in views] == [
        ("a", TaskState.RUNNING),
        ("b", TaskState.RUNNING),
        ("c", TaskState.PAUSED),
    ]
    assert views[0].warning == ""
    assert all("its shim does not answer" in view.warning for view in views[1:])


async def test_shim_that_has_gone_is_listed_as_such(sidecar: Service, tmp_path: Path) -> None:
    """A task whose shim was killed is in the list, with a warning."""
    recorded(tmp_path, "a")

    (view,) = await sidecar.list_tasks("ns")

    assert "its shim does not answer" in view.warning


def descriptors() -> int:
    """Count what this process has open."""
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


async def test_no_connection_is_kept(sidecar: Service, tmp_path: Path) -> None:
    """Of shims that were listed, at once and again, and have ended, no descriptor stays open."""
    before = descriptors()
    for number in range(5):
        async with a_shim(tmp_path, f"a{number}"):
            await asyncio.gather(
                sidecar.list_tasks("ns"), sidecar.list_tasks("ns"), pids(sidecar, f"a{number}")
            )

    assert descriptors() <= before


class ACheckpoint:
    """A checkpoint of the task `a`, through the sidecar, whose shim is in the middle of it."""

    def __init__(self, sidecar: Service) -> None:
        self._sidecar = sidecar
        self._call = cryo_operations.checkpoint(ref("a"))
        self.task = asyncio.create_task(self._run())

    async def _run(self) -> CheckpointResult:
        async def write(_progress: Progress) -> None:
            pass

        operation = self._call.operation
        payload = self._call.request.SerializeToString()
        update = await self._sidecar.streaming(operation, payload, Beside(), write)
        return self._call.read(operation.response.FromString(update))

    async def cancel(self) -> cryo_pb2.CancelResponse.Outcome.ValueType:
        """Cancel it by its token, as the clients do; return how it ended."""
        request = cryo_pb2.CancelRequest(operation=self._call.token)
        answer = await self._sidecar.unary(
            cryo_operations.Cancel, request.SerializeToString(), Beside()
        )
        return cryo_pb2.CancelResponse.FromString(answer).outcome


@contextlib.asynccontextmanager
async def a_checkpoint(sidecar: Service, core: FakeTasks) -> AsyncIterator[ACheckpoint]:
    """Have a shim's checkpoint under way."""
    core.hold = True
    made = ACheckpoint(sidecar)
    await core.holding.wait()
    yield made


async def test_cancelled_checkpoint_is_rolled_back(sidecar: Service, tmp_path: Path) -> None:
    """Cancel answers when the shim has rolled back, and the checkpoint fails as cancelled."""
    async with a_shim(tmp_path, "a") as core, a_checkpoint(sidecar, core) as made:
        assert await made.cancel() == cryo_pb2.CancelResponse.OUTCOME_CANCELLED

        with pytest.raises(Cancelled):
            await made.task
        assert core.rolled_back.is_set()


async def test_abandoned_checkpoint_is_rolled_back(sidecar: Service, tmp_path: Path) -> None:
    """A call that is cancelled itself, as by a client that hangs up, ends after the rollback."""
    async with a_shim(tmp_path, "a") as core, a_checkpoint(sidecar, core) as made:
        made.task.cancel()

        with pytest.raises(asyncio.CancelledError):
            await made.task
        assert core.rolled_back.is_set()


async def test_checkpoint_that_was_complete(sidecar: Service, tmp_path: Path) -> None:
    """A cancellation that comes too late gives the result: the image is complete."""

    class Committed(FakeTasks):
        async def checkpoint(self, *arguments: object) -> object:  # type: ignore[override]
            with contextlib.suppress(asyncio.CancelledError):
                await super().checkpoint(*arguments)  # type: ignore[arg-type]
            return RESULT

    async with a_shim(tmp_path, "a", Committed()) as core, a_checkpoint(sidecar, core) as made:
        assert await made.cancel() == cryo_pb2.CancelResponse.OUTCOME_COMPLETED

        assert await made.task == RESULT


async def test_shim_that_does_not_roll_back(sidecar: Service, tmp_path: Path) -> None:
    """A shim that exceeds the rollback timeout is an error that says so."""
    core = FakeTasks()
    core.rollback_s = 2.0
    async with a_shim(tmp_path, "a", core), a_checkpoint(sidecar, core) as made:
        assert await made.cancel() == cryo_pb2.CancelResponse.OUTCOME_FAILED

        with pytest.raises(DeadlineExceeded, match="its shim did not report"):
            await made.task


async def test_shim_that_dies_in_a_checkpoint(sidecar: Service, tmp_path: Path) -> None:
    """The exit of the shim ends the call with an error."""
    async with contextlib.AsyncExitStack() as stack:
        core = await stack.enter_async_context(a_shim(tmp_path, "a"))
        made = await stack.enter_async_context(a_checkpoint(sidecar, core))
        closing = asyncio.create_task(stack.aclose())
        with pytest.raises(Unavailable):
            await made.task
        await closing
