"""The table of operations: it is complete, in the order of its answers, and easy to extend."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import shim.service
from hack import clients
from shim.api.containerd.task.v3 import shim_pb2
from shim.api.cryo.v1 import cryo_pb2
from shim.model import CreateRequest, TaskRef
from shim.service.server import Server
from shim.service.service import Beside, Service
from shim.service.shims import Shims
from shim.service.tables import CRYO, TASK
from shim.service.ttrpc.client import Client as TtrpcClient
from shim.service.ttrpc_edge import shim_services
from shim.task.host_info import HostInfo
from shim.task.image_service import ImageService
from shim.task.name_service import NameService
from shim.task.tasks import Tasks
from tests.wire.fakes import FakeHostInfo, FakeImages, FakeNames, FakeTask, FakeTasks, as_tasks
from tests.wire.helpers_ttrpc import serving
from tests.wire.test_shims import recorded

REF = TaskRef(namespace="ns", id="a")


@pytest.mark.parametrize(("table", "module"), ((TASK, shim_pb2), (CRYO, cryo_pb2)))
def test_every_rpc_has_an_operation(table: Any, module: Any) -> None:
    """Each method of the .proto files is in the table, with its messages and its streaming."""
    descriptor = module.DESCRIPTOR.services_by_name[table.service.rpartition(".")[2]]

    assert table.service == descriptor.full_name
    assert {
        name: (one.request.DESCRIPTOR, one.response.DESCRIPTOR, one.streams)
        for name, one in table.operations.items()
    } == {
        method.name: (method.input_type, method.output_type, method.server_streaming)
        for method in descriptor.methods
    }


@pytest.mark.parametrize(
    ("real", "fake"),
    (
        (Tasks, FakeTasks),
        (ImageService, FakeImages),
        (NameService, FakeNames),
        (HostInfo, FakeHostInfo),
    ),
)
def test_fakes_are_like_the_real_thing(real: type, fake: type) -> None:
    """What handlers call has the same parameters in the fakes of these tests."""
    names = [
        name
        for name, one in vars(real).items()
        if inspect.iscoroutinefunction(one) and not name.startswith("_")
    ]

    assert names
    for name in names:
        parameters = [list(inspect.signature(vars(kind)[name]).parameters) for kind in (real, fake)]
        assert parameters[0] == parameters[1], name


# --- the order of answers ---------------------------------------------------------------------


class Dying(FakeTasks):
    """Tasks whose kill returns some time after the task has been deleted."""

    def __init__(self) -> None:
        super().__init__()
        self.killing = asyncio.Event()
        self.killed = asyncio.Event()
        self.tasks[REF] = FakeTask(CreateRequest(ref=REF, bundle="/b"))

    async def kill(
        self, ref: TaskRef, signal: int, *, exec_id: str = "", everyone: bool = False
    ) -> None:
        """End the task, and go on until `killed`."""
        self.end(ref, 128 + signal)
        self.killing.set()
        await self.killed.wait()


async def test_delete_is_answered_after_the_kill(tmp_path: Path) -> None:
    """A Delete waits for the calls under way: containerd hangs up on a shim once it has answered.

    containerd sees the exit, and deletes the task, while the `runsc kill` of the Kill still runs.
    """
    core, answered = Dying(), list[str]()
    async with serving(shim_services(Service(as_tasks(core)), "ns"), tmp_path / "s"):
        client = await TtrpcClient.connect(tmp_path / "s")

        async def call(name: str, request: Any) -> None:
            response = TASK.operations[name].response
            await client.call(TASK.service, name, request, response, timeout_s=10)
            answered.append(name)

        kill = asyncio.create_task(call("Kill", shim_pb2.KillRequest(id="a", signal=9)))
        await core.killing.wait()
        delete = asyncio.create_task(call("Delete", shim_pb2.DeleteRequest(id="a")))
        while REF in core.tasks:  # noqa: ASYNC110 - the fake has no event for it
            await asyncio.sleep(0.01)
        core.killed.set()
        await asyncio.gather(kill, delete)
        await client.close()

    assert answered == ["Kill", "Delete"]


# --- adding an operation ----------------------------------------------------------------------

# Both steps: what answers, and the call that clients make of it. The message is in the .proto.
ADDED = '''
from shim.api.containerd.task.v3 import shim_pb2
from shim.model import TaskRef
from shim.service.operation import Call, Incoming
from shim.service.tables import CRYO, TASK


@TASK.add(shim_pb2.ConnectRequest, shim_pb2.ConnectResponse)
async def Touch(call: Incoming, request: shim_pb2.ConnectRequest) -> shim_pb2.ConnectResponse:
    """Return the name of a task."""
    return shim_pb2.ConnectResponse(version=f"{call.ref.namespace}/{call.ref.id}")


def touch(ref: TaskRef, suffix: str = "") -> Call[str]:
    """Return the name of a task, with a suffix."""
    request = shim_pb2.ConnectRequest(id=ref.id)
    return Touch.call(request, lambda answer: answer.version + suffix, ref.namespace)
'''


@pytest.fixture
def added(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Add an operation to the table, as a module of operations does."""
    module = ModuleType("shim.service.added_operations")
    exec(ADDED, vars(module))  # noqa: S102 - the text above
    monkeypatch.setattr(shim.service, "added_operations", module, raising=False)
    yield
    del TASK.operations["Touch"]


def generated(kind: clients.Kind) -> Any:
    """Generate a client for the added operation alone, and load it."""
    loaded: dict[str, Any] = {}
    exec(clients.client_of({"added_operations": ADDED}, kind), loaded)  # noqa: S102 - the text above
    return loaded[kind.name]


async def test_an_added_operation_is_everywhere(
    added: None, server: Server, address: str, tmp_path: Path
) -> None:
    """A handler and a function make an RPC: on both servers, in both clients, and forwarded."""
    folder = tmp_path / "state"
    shim_service = Service(as_tasks(FakeTasks()))
    sidecar = Service(as_tasks(FakeTasks()), shims=Shims(folder, rollback_s=1.0))
    asyncio_client, blocking_client = generated(clients.ASYNCIO), generated(clients.BLOCKING)

    async with asyncio_client(address, "ns") as client:
        assert await client.touch("a", suffix="!") == "ns/a!"
    with blocking_client(address, "ns") as client:
        assert await asyncio.to_thread(client.touch, REF) == "ns/a"
    async with serving(shim_services(shim_service, "moby"), recorded(folder, "a")) as _:
        payload = shim_pb2.ConnectRequest(id="a").SerializeToString()
        answer = await sidecar.unary(TASK.operations["Touch"], payload, Beside(namespace="ns"))
    assert shim_pb2.ConnectResponse.FromString(answer).version == "ns/a"
