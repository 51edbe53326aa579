"""containerd's Task services over ttrpc, v2 and v3 alike, and what loading them costs."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.empty_pb2 import Empty
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from shim.api.containerd.runc.v1 import options_pb2
from shim.api.containerd.task.v3 import shim_pb2
from shim.api.containerd.types import mount_pb2, task_pb2
from shim.errors import AlreadyExists, InvalidArgument, NotFound, Unavailable
from shim.model import CreateRequest, Mount, Stdio, TaskRef
from shim.service import oci_json
from shim.service.convert import from_time
from shim.service.oci_json import PROCESS_TYPE, RESOURCES_TYPE
from shim.service.service import Service
from shim.service.task_operations import TASK
from shim.service.ttrpc.client import Client
from shim.service.ttrpc.envelope import NAMESPACE_KEY
from shim.service.ttrpc_edge import V2, V3, task_services
from tests.wire.fakes import AT, FakeTask, FakeTasks, as_tasks, service_of
from tests.wire.helpers_ttrpc import serving, until

A = TaskRef(namespace="k8s.io", id="a")


class Shim:
    """A client of one version; the messages of both are the same."""

    def __init__(self, client: Client, service: str) -> None:
        self.client = client
        self.service = service
        descriptor = shim_pb2.DESCRIPTOR.services_by_name["Task"]
        self._methods = descriptor.methods_by_name

    async def call(self, name: str, **fields: Any) -> Any:
        """Call a method in the namespace k8s.io."""
        method = self._methods[name]
        return await self.client.call(
            self.service,
            name,
            GetMessageClass(method.input_type)(**fields),
            GetMessageClass(method.output_type),
            timeout_s=10,
            metadata={NAMESPACE_KEY: "k8s.io"},
        )


@pytest.fixture
async def core() -> FakeTasks:
    """Make a core without tasks."""
    return FakeTasks()


@pytest.fixture
def said() -> list[shim_pb2.ShutdownRequest]:
    """Note what Shutdown was called with."""
    return []


@pytest.fixture
async def service(core: FakeTasks, said: list[shim_pb2.ShutdownRequest]) -> Service:
    """Make what answers the calls."""
    return Service(as_tasks(core), shutdown=said.append)


@pytest.fixture(params=(V2, V3))
async def shim(
    request: pytest.FixtureRequest,
    service: Service,
    tmp_path: Path,
) -> AsyncIterator[Shim]:
    """Serve the core, and speak either version with it."""
    async with serving(task_services(service, "moby"), tmp_path / "s"):
        client = await Client.connect(tmp_path / "s")
        yield Shim(client, request.param)
        await client.close()


@pytest.mark.parametrize("service", (V2, V3))
def test_every_method_is_served(service: str) -> None:
    """The table has each method of the service, with its request's class, and no other."""
    descriptor = shim_pb2.DESCRIPTOR.services_by_name["Task"]
    table = task_services(service_of(FakeTasks()))[service]

    assert (V2, V3) == ("containerd.task.v2.Task", "containerd.task.v3.Task")
    assert table.keys() == TASK.operations.keys()
    assert {name: one.request.DESCRIPTOR.name for name, one in TASK.operations.items()} == {
        method.name: method.input_type.name for method in descriptor.methods
    }


async def test_create(shim: Shim, core: FakeTasks) -> None:
    """Everything of a Create arrives, its namespace too; a second one is refused."""
    fields = {
        "id": "a",
        "bundle": "/b",
        "rootfs": [mount_pb2.Mount(type="bind", source="/r", options=["ro"])],
        "terminal": True,
        "stdin": "/f/in",
        "stdout": "/f/out",
        "checkpoint": "/images/a",
    }

    assert (await shim.call("Create", **fields)).pid == 0
    assert core.calls == [
        (
            "create",
            CreateRequest(
                ref=A,
                bundle="/b",
                rootfs=(Mount(type="bind", source="/r", options=("ro",)),),
                stdio=Stdio(stdin="/f/in", stdout="/f/out", terminal=True),
                checkpoint="/images/a",
            ),
        )
    ]
    with pytest.raises(AlreadyExists):
        await shim.call("Create", **fields)


async def test_a_whole_life(shim: Shim, core: FakeTasks) -> None:
    """Create, Start, State, Wait, Kill and Delete, as `ctr run` calls them."""
    assert (await shim.call("Create", id="a", bundle="/b", stdout="/f")).pid == 1234
    waiting = asyncio.create_task(shim.call("Wait", id="a"))
    assert (await shim.call("Start", id="a")).pid == 1234
    state = await shim.call("State", id="a")
    assert (state.status, state.stdout, state.bundle) == (task_pb2.RUNNING, "/f", "/b")
    assert not waiting.done()
    await shim.call("Kill", id="a", signal=9, all=True)
    ended = await waiting
    assert ended.exit_status == 137
    assert from_time(ended.exited_at) == AT
    assert (await shim.call("State", id="a")).status == task_pb2.STOPPED

    assert (await shim.call("Delete", id="a")).exit_status == 137
    assert ("kill", A, 9, "", True) in core.calls
    with pytest.raises(NotFound, match="no task a"):
        await shim.call("State", id="a")


@pytest.mark.parametrize(
    ("name", "fields", "expected"),
    (
        ("Start", {"exec_id": "e"}, ("start", A, "e")),
        ("Pids", {}, ("pids", A)),
        ("Pause", {}, ("pause", A)),
        ("Resume", {}, ("resume", A)),
        ("Stats", {}, ("stats", A)),
        ("CloseIO", {"exec_id": "e", "stdin": True}, ("close_io", A, "e")),
        ("ResizePty", {"width": 80, "height": 25}, ("resize_pty", A, 80, 25, "")),
        (
            "Exec",
            {"exec_id": "e", "stdin": "/i", "spec": oci_json.pack(PROCESS_TYPE, {"args": ["x"]})},
            ("exec", A, "e", {"args": ["x"]}, Stdio(stdin="/i")),
        ),
        (
            "Update",
            {"resources": oci_json.pack(RESOURCES_TYPE, {"memory": {"limit": 5}})},
            ("update", A, {"memory": {"limit": 5}}),
        ),
    ),
)
async def test_other_operations(
    shim: Shim, core: FakeTasks, name: str, fields: dict[str, Any], expected: tuple[Any, ...]
) -> None:
    """Each operation reaches the core with what it was given."""
    core.tasks[A] = FakeTask(CreateRequest(ref=A, bundle="/b"))
    answer: Message = await shim.call(name, id="a", **fields)

    assert core.calls == [expected]
    if name == "Pids":
        listed = [process.pid for process in answer.processes]  # type: ignore[attr-defined]
        assert listed == [4242, 4243]
        assert list(answer.guest_pids) == [1, 7, 8]  # type: ignore[attr-defined]
    if name == "Stats":
        assert answer.stats.type_url.startswith("io.containerd.cgroups.v")  # type: ignore[attr-defined]


async def test_checkpoint(shim: Shim, core: FakeTasks) -> None:
    """A Checkpoint is made where and as containerd's options say."""
    core.tasks[A] = FakeTask(CreateRequest(ref=A, bundle="/b"))
    options = AnyMessage(
        type_url="containerd.runc.v1.CheckpointOptions",
        value=options_pb2.CheckpointOptions(exit=True).SerializeToString(),
    )
    await shim.call("Checkpoint", id="a", path="/images/a", options=options)
    ((name, ref, asked),) = core.calls

    assert (name, ref) == ("checkpoint", A)
    assert (asked.image_path, asked.exit) == ("/images/a", True)


async def test_connect_never_fails(shim: Shim, core: FakeTasks) -> None:
    """Containerd gives a task up when Connect fails, so it answers for any id."""
    for name in ("unknown", "", "../x"):
        assert (await shim.call("Connect", id=name)).task_pid == 0
    core.tasks[A] = FakeTask(CreateRequest(ref=A, bundle="/b"))

    assert (await shim.call("Connect", id="a")).task_pid == 1234


async def test_shutdown_is_passed_on(shim: Shim, said: list[shim_pb2.ShutdownRequest]) -> None:
    """Shutdown stops the shim, and the response still arrives."""
    await shim.call("Shutdown", id="a", now=True)

    assert [(one.id, one.now) for one in said] == [("a", True)]


async def test_the_usual_namespace(shim: Shim, core: FakeTasks) -> None:
    """Without metadata, as from containerd 1.x, the namespace is the shim's; no name is refused."""
    request = shim_pb2.CreateTaskRequest(id="a", bundle="/b")
    await shim.client.call(shim.service, "Create", request, shim_pb2.CreateTaskResponse)

    assert core.calls[0][1].ref.namespace == "moby"
    with pytest.raises(InvalidArgument, match="namespace"):
        await shim.client.call(
            shim.service,
            "Pids",
            shim_pb2.PidsRequest(id="a"),
            Empty,
            metadata={NAMESPACE_KEY: "../x"},
        )


async def test_a_wait_ends_with_its_caller(shim: Shim, core: FakeTasks) -> None:
    """A Wait whose caller has gone is ended."""
    core.tasks[A] = FakeTask(CreateRequest(ref=A, bundle="/b"))
    waiting = asyncio.create_task(shim.call("Wait", id="a"))
    await core.waiting.wait()
    await shim.client.close()
    with pytest.raises(Unavailable):
        await waiting

    async with asyncio.timeout(60):
        await core.wait_cancelled.wait()


async def test_a_stop_ends_every_wait(shim: Shim, core: FakeTasks, service: Service) -> None:
    """A shim that stops answers its waits, so that it need not cut them."""
    core.tasks[A] = FakeTask(CreateRequest(ref=A, bundle="/b"))
    waiting = asyncio.create_task(shim.call("Wait", id="a"))
    await core.waiting.wait()
    service.waits.close()

    with pytest.raises(Unavailable, match="stopping"):
        await waiting


async def test_a_checkpoint_is_undone_when_its_caller_leaves(shim: Shim, core: FakeTasks) -> None:
    """A checkpoint whose caller goes away is rolled back to its end."""
    core.tasks[A] = FakeTask(CreateRequest(ref=A, bundle="/b"))
    core.hold, core.rollback_s = True, 0.05
    call = asyncio.create_task(shim.call("Checkpoint", id="a", path="/images/a"))
    await core.holding.wait()
    await shim.client.close()
    with pytest.raises(Unavailable):
        await call

    await until(core.rolled_back.is_set)


def test_it_loads_no_grpc() -> None:
    """The shim process stays small: neither gRPC nor the client library is loaded."""
    watched = ("grpc", "shim.client", "shim.service.grpc_edge", "click")
    code = (
        "import sys, shim.service.ttrpc, shim.service.ttrpc_edge, shim.service.events\n"
        f"print([name for name in {watched} if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, check=False, text=True, timeout=120
    )

    assert done.stdout.strip() + done.stderr == "[]"
