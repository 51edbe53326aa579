"""What any gRPC or containerd client may expect of the socket."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import grpc
import grpc.aio
import pytest
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.json_format import MessageToDict
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from shim.api.cgroups.v1 import metrics_pb2 as v1
from shim.api.cgroups.v2 import metrics_pb2 as v2
from shim.api.containerd.runc.v1 import options_pb2
from shim.api.containerd.task.v3 import shim_pb2, shim_pb2_grpc
from shim.api.containerd.types import task_pb2
from shim.api.cryo.v1 import cryo_pb2, cryo_pb2_grpc
from shim.errors import Unimplemented
from shim.model import CheckpointOptions, CreateRequest, Stats, TaskRef
from shim.service import metrics
from shim.service.server import Server
from shim.state import TaskState
from tests.wire.fakes import FakeTask, FakeTasks

A = TaskRef(namespace="default", id="a")
STATS = Stats(cpu_usage_ns=7_000, memory_bytes=5, memory_limit_bytes=6, pids=2)


@pytest.fixture
async def channel(server: Server, address: str) -> AsyncIterator[grpc.aio.Channel]:
    """Connect as a stranger does, with gRPC's own defaults."""
    async with grpc.aio.insecure_channel(address) as channel:
        yield channel


async def code_of(call: Any) -> grpc.StatusCode:
    """Return the status of a call that fails."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value.code()


@pytest.mark.parametrize("service", ("", "cryo.v1.Cryo", "containerd.task.v3.Task"))
async def test_health(channel: grpc.aio.Channel, service: str) -> None:
    """The server and each of its services are healthy by the standard protocol."""
    stub: Any = health_pb2_grpc.HealthStub(channel)
    answer = await stub.Check(health_pb2.HealthCheckRequest(service=service))

    assert answer.status == health_pb2.HealthCheckResponse.SERVING


async def test_reflection(channel: grpc.aio.Channel) -> None:
    """A tool such as grpcurl can list the services and fetch their descriptions."""
    make: Any = reflection_pb2_grpc.ServerReflectionStub
    stub = make(channel)
    requests = iter(
        (
            reflection_pb2.ServerReflectionRequest(list_services=""),
            reflection_pb2.ServerReflectionRequest(file_containing_symbol="cryo.v1.Cryo"),
        )
    )
    answers = [answer async for answer in stub.ServerReflectionInfo(requests)]
    names = {service.name for service in answers[0].list_services_response.service}

    assert names == {
        "containerd.task.v3.Task",
        "cryo.v1.Cryo",
        "grpc.health.v1.Health",
        "grpc.reflection.v1alpha.ServerReflection",
    }
    assert answers[1].file_descriptor_response.file_descriptor_proto


async def test_namespace_comes_from_metadata(channel: grpc.aio.Channel, core: FakeTasks) -> None:
    """Containerd's header chooses the namespace, and without it it is `default`."""
    stub = shim_pb2_grpc.TaskStub(channel)
    request = shim_pb2.CreateTaskRequest(id="a", bundle="/b")
    await stub.Create(request, metadata=(("containerd-namespace", "k8s.io"),))
    await stub.Create(request)

    assert [call[1].ref.namespace for call in core.calls] == ["k8s.io", "default"]


async def test_a_namespace_that_is_no_name_is_refused(channel: grpc.aio.Channel) -> None:
    """A namespace is a folder name, and so checked like an id."""
    stub = shim_pb2_grpc.TaskStub(channel)
    request = shim_pb2.PidsRequest(id="a")
    bad = (("containerd-namespace", "../x"),)

    assert await code_of(stub.Pids(request, metadata=bad)) is grpc.StatusCode.INVALID_ARGUMENT


async def test_connect_never_fails(channel: grpc.aio.Channel, core: FakeTasks) -> None:
    """Containerd gives a task up when Connect fails, so it answers for any id."""
    stub = shim_pb2_grpc.TaskStub(channel)
    for task in ("unknown", "", "../x"):
        answer = await stub.Connect(shim_pb2.ConnectRequest(id=task))

        assert answer.task_pid == 0
        assert answer.shim_pid > 0
    core.tasks[A] = FakeTask(CreateRequest(ref=A, bundle="/b"))

    assert (await stub.Connect(shim_pb2.ConnectRequest(id="a"))).task_pid == 1234


async def test_shutdown_does_no_harm(channel: grpc.aio.Channel) -> None:
    """Containerd sends Shutdown after every Delete; the sidecar goes on serving."""
    stub = shim_pb2_grpc.TaskStub(channel)
    await stub.Shutdown(shim_pb2.ShutdownRequest(id="a", now=True))

    assert (await stub.Connect(shim_pb2.ConnectRequest(id="a"))).shim_pid > 0


def packed(message: Any, prefix: str = "") -> AnyMessage:
    """Pack a message as Go's typeurl does, or with a prefix."""
    return AnyMessage(
        type_url=prefix + message.DESCRIPTOR.full_name, value=message.SerializeToString()
    )


@pytest.mark.parametrize("prefix", ("", "type.googleapis.com/"))
async def test_containerds_checkpoint_options(
    channel: grpc.aio.Channel, core: FakeTasks, prefix: str
) -> None:
    """Exit is honoured, the request's path comes first, and the options' path serves without."""
    stub = shim_pb2_grpc.TaskStub(channel)
    options = packed(options_pb2.CheckpointOptions(exit=True, image_path="/o"), prefix)
    await stub.Checkpoint(shim_pb2.CheckpointTaskRequest(id="a", path="/p", options=options))
    await stub.Checkpoint(shim_pb2.CheckpointTaskRequest(id="a", options=options))
    await stub.Checkpoint(shim_pb2.CheckpointTaskRequest(id="a", path="/p"))

    assert [call[2] for call in core.calls] == [
        CheckpointOptions(image_path="/p", exit=True, fill=True),
        CheckpointOptions(image_path="/o", exit=True, fill=True),
        CheckpointOptions(image_path="/p", fill=True),
    ]


@pytest.mark.parametrize(
    "options",
    (
        AnyMessage(type_url="containerd.runc.v1.CheckpointOptions", value=b"\xff"),
        AnyMessage(type_url="some.Other", value=b""),
    ),
    ids=("garbled", "other"),
)
async def test_other_checkpoint_options_are_refused(
    channel: grpc.aio.Channel, core: FakeTasks, options: AnyMessage
) -> None:
    """Options that cannot be understood are not ignored."""
    stub = shim_pb2_grpc.TaskStub(channel)
    request = shim_pb2.CheckpointTaskRequest(id="a", path="/p", options=options)

    assert await code_of(stub.Checkpoint(request)) is grpc.StatusCode.INVALID_ARGUMENT
    assert core.calls == []


@pytest.mark.parametrize(
    "value",
    (b"", b"[]", b"{", b"\xff", b"{}" + b" " * (1 << 20), b"[" * 9999),
    ids=("none", "list", "cut", "bytes", "long", "deep"),
)
async def test_a_garbled_spec_is_refused(
    channel: grpc.aio.Channel, core: FakeTasks, value: bytes
) -> None:
    """An exec's process and an update's resources must be JSON objects of sane size."""
    stub = shim_pb2_grpc.TaskStub(channel)
    spec = AnyMessage(type_url="x", value=value)
    exec_ = stub.Exec(shim_pb2.ExecProcessRequest(id="a", exec_id="e", spec=spec))
    update = stub.Update(shim_pb2.UpdateTaskRequest(id="a", resources=spec))

    assert await code_of(exec_) is grpc.StatusCode.INVALID_ARGUMENT
    assert await code_of(update) is grpc.StatusCode.INVALID_ARGUMENT
    assert core.calls == []


@pytest.mark.parametrize(
    ("state", "status"),
    (
        (TaskState.CREATED, task_pb2.CREATED),
        (TaskState.RUNNING, task_pb2.RUNNING),
        (TaskState.PAUSED, task_pb2.PAUSED),
        (TaskState.CHECKPOINTING, task_pb2.PAUSING),
        (TaskState.RESTORING, task_pb2.CREATED),
        (TaskState.STOPPED, task_pb2.STOPPED),
        (TaskState.DELETED, task_pb2.STOPPED),
    ),
)
async def test_states_in_containerds_words(
    channel: grpc.aio.Channel, core: FakeTasks, state: TaskState, status: int
) -> None:
    """Each state of ours is one that containerd knows."""
    core.tasks[A] = FakeTask(CreateRequest(ref=A, bundle="/b"), state=state)
    answer = await shim_pb2_grpc.TaskStub(channel).State(shim_pb2.StateRequest(id="a"))

    assert answer.status == status


async def test_unknown_numbers_are_refused(channel: grpc.aio.Channel, core: FakeTasks) -> None:
    """A choice that this sidecar does not know is an error, not a default."""
    stub = cryo_pb2_grpc.CryoStub(channel)
    request = cryo_pb2.CheckpointRequest(id="a")
    request.engine = 99  # type: ignore[assignment]  # that is the point
    negative = cryo_pb2.CheckpointRequest(id="a")
    negative.timeout.FromSeconds(-1)

    assert await code_of(anext(aiter(stub.Checkpoint(request)))) is grpc.StatusCode.INVALID_ARGUMENT
    assert (
        await code_of(anext(aiter(stub.Checkpoint(negative)))) is grpc.StatusCode.INVALID_ARGUMENT
    )
    assert core.calls == []


async def test_a_message_above_the_limit_is_refused(
    channel: grpc.aio.Channel, core: FakeTasks
) -> None:
    """Four MiB is the most that is read of one message, as in containerd."""
    stub = shim_pb2_grpc.TaskStub(channel)
    big = shim_pb2.CreateTaskRequest(id="a", bundle="x" * (5 << 20))

    assert await code_of(stub.Create(big)) is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert core.calls == []


def test_metrics_in_both_forms() -> None:
    """What ctr and the kubelet read is filled in either cgroup version, by containerd's type."""
    one, two = metrics.as_v1(STATS), metrics.as_v2(STATS)

    assert metrics.from_v1(one) == STATS
    assert metrics.from_v2(two) == STATS
    assert MessageToDict(one)["cpu"]["usage"]["total"] == "7000"
    assert MessageToDict(two)["cpu"]["usageUsec"] == "7"
    assert metrics.pack(STATS).type_url in {
        v1.Metrics.DESCRIPTOR.full_name,
        v2.Metrics.DESCRIPTOR.full_name,
    }


def test_metrics_of_another_kind_are_refused() -> None:
    """A measure that is not understood is not read as zero."""
    with pytest.raises(Unimplemented):
        metrics.unpack(AnyMessage(type_url="some.Metrics"))


def test_the_bindings_keep_containerds_numbers() -> None:
    """A few messages, byte for byte as containerd writes them."""
    create = shim_pb2.CreateTaskRequest(id="a", bundle="b", terminal=True, checkpoint="c")
    wait = shim_pb2.WaitResponse(exit_status=137)

    assert create.SerializeToString() == b"\x0a\x01a\x12\x01b\x20\x01\x42\x01c"
    assert wait.SerializeToString() == b"\x08\x89\x01"
    assert options_pb2.CheckpointOptions(exit=True, image_path="p").SerializeToString() == (
        b"\x08\x01\x42\x01p"
    )
