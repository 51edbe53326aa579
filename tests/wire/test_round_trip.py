"""Every operation reaches the core with what was said and comes back with what was answered."""

from __future__ import annotations

import pytest
from google.protobuf.any_pb2 import Any as AnyMessage

from shim.api.containerd.task.v3 import shim_pb2
from shim.api.cryo.v1 import cryo_pb2
from shim.client import AsyncClient, Client
from shim.errors import InvalidArgument
from shim.image.named import ImageRef
from shim.model import (
    CheckpointOptions,
    Connections,
    CreateRequest,
    CudaMode,
    Direct,
    EngineName,
    Exit,
    MemberOptions,
    Mount,
    Progress,
    RestoreOptions,
    Stats,
    Stdio,
    TaskRef,
    Verify,
)
from shim.service import cryo_messages, task_messages
from shim.state import TaskState
from tests.wire.conftest import Sidecar
from tests.wire.fakes import AT, IMAGE, MANIFEST, NAME, RESTORED, RESULT, UPDATES, FakeTasks

A = TaskRef(namespace="default", id="a")
STDIO = Stdio(stdin="/f/0", stdout="/f/1", stderr="/f/2", terminal=True)


async def test_create_carries_everything(client: AsyncClient, core: FakeTasks) -> None:
    """Bundle, mounts, streams and image arrive as they were given."""
    mount = Mount(type="bind", source="/x", target="y", options=("ro", "rbind"))
    pid = await client.create("a", "/b", rootfs=[mount], stdio=STDIO, checkpoint="/images/a")

    request = CreateRequest(
        ref=A, bundle="/b", rootfs=(mount,), stdio=STDIO, checkpoint="/images/a"
    )
    assert core.calls == [("create", request)]
    assert pid == 0


async def test_a_task_lives(client: AsyncClient, core: FakeTasks) -> None:
    """Create, start, state, wait and delete agree with each other."""
    assert await client.create("a", "/b", stdio=STDIO) == 1234
    assert await client.start("a") == 1234
    view = await client.state("a")
    assert (view.id, view.bundle, view.pid, view.state) == ("a", "/b", 1234, TaskState.RUNNING)
    assert view.stdio == STDIO
    assert view.exit is None

    core.end(A, 3)

    assert await client.wait("a") == Exit(status=3, at=AT)
    assert (await client.state("a")).exit == Exit(status=3, at=AT)
    assert (await client.delete("a")).exit == Exit(status=3, at=AT)
    assert core.tasks == {}


async def test_an_exec_carries_its_process(client: AsyncClient, core: FakeTasks) -> None:
    """The OCI process object arrives whole."""
    process = {"args": ["sh"], "cwd": "/", "env": ["A=ü"], "user": {"uid": 5}}
    await client.create("a", "/b")
    await client.exec("a", "e1", process, STDIO)

    assert core.tasks[A].execs == {"e1": (process, STDIO)}
    assert await client.start("a", "e1") == 1235


async def test_small_operations_carry_their_arguments(client: AsyncClient, core: FakeTasks) -> None:
    """Nothing of a request is lost on the way."""
    await client.create("a", "/b")
    core.calls.clear()
    await client.pause("a")
    await client.resume("a")
    await client.update("a", {"cpu": {"shares": 5}})
    await client.close_io("a", "e1")
    await client.resize_pty("a", 80, 25, "e1")
    pids = await client.pids("a")
    await client.kill("a", 9, exec_id="e1", everyone=True)

    assert pids == [1, 7, 8]
    assert core.calls == [
        ("pause", A),
        ("resume", A),
        ("update", A, {"cpu": {"shares": 5}}),
        ("close_io", A, "e1"),
        ("resize_pty", A, 80, 25, "e1"),
        ("pids", A),
        ("kill", A, 9, "e1", True),
    ]


async def test_stats_survive_the_cgroup_form(client: AsyncClient) -> None:
    """What was measured is read back from containerd's metrics messages."""
    stats = await client.stats("a")

    assert stats == Stats(
        cpu_usage_ns=5_000_000,
        cpu_user_ns=3_000_000,
        cpu_system_ns=2_000_000,
        memory_bytes=1 << 33,
        memory_limit_bytes=1 << 34,
        pids=3,
    )


async def test_tasks_are_listed_by_namespace(client: AsyncClient, core: FakeTasks) -> None:
    """A listing shows the client's namespace, or the one that is named, with every column."""
    await client.create("a", "/b", checkpoint="/images/a")
    await client.create(TaskRef(namespace="other", id="b"), "/b")
    [view] = await client.list()
    [other] = await client.list("other")

    assert view == (await core.list("default"))[0]
    assert (view.id, view.gpu, view.warning) == ("a", True, "adopted")
    assert (other.namespace, other.id) == ("other", "b")


async def test_checkpoint_streams_progress(client: AsyncClient, core: FakeTasks) -> None:
    """Options arrive, each progress update arrives in order, and the result is whole."""
    options = CheckpointOptions(
        image_path="/images/a",
        exit=True,
        engine=EngineName.PHASED,
        cuda=CudaMode.REQUIRE,
        connections=Connections.REFUSE,
        timeout_s=12.5,
        seal=False,
        compress=True,
        direct=True,
    )
    updates: list[Progress] = []
    result = await client.checkpoint("a", options, updates.append)

    assert core.calls == [("checkpoint", A, options)]
    assert tuple(updates) == UPDATES
    assert result == RESULT


async def test_restore_streams_progress(client: AsyncClient, core: FakeTasks) -> None:
    """The same for restore, which names a device map."""
    options = RestoreOptions(
        image_path="/images/a",
        bundle="/b",
        stdio=STDIO,
        verify=Verify.FULL,
        background=True,
        direct=Direct.OFF,
        timeout_s=0.5,
        device_map={"GPU-1": "GPU-2"},
        members=(MemberOptions(saved="w", id="x", bundle="/c", stdio=STDIO),),
        image_hooks=True,
        untrusted_folder=True,
        trust_spec=True,
        digest="00ff",
    )
    updates: list[Progress] = []
    result = await client.restore("a", options, updates.append)

    assert core.calls == [("restore", A, options)]
    assert tuple(updates) == UPDATES
    assert result == RESTORED


def test_direct_of_an_earlier_client() -> None:
    """Its flag means `on`; without it the sidecar chooses."""
    asked = cryo_pb2.RestoreRequest(id="a", image_path="/i", direct=True)
    assert cryo_messages.from_restore(asked).direct is Direct.ON
    plain = cryo_pb2.RestoreRequest(id="a", image_path="/i")
    assert cryo_messages.from_restore(plain).direct is Direct.AUTO
    for direct in Direct:
        sent = cryo_messages.to_restore(A, RestoreOptions(image_path="/i", direct=direct))
        assert sent.direct is (direct is Direct.ON)


async def test_options_left_out_are_the_defaults(client: AsyncClient, core: FakeTasks) -> None:
    """A request that says nothing means what the values' defaults say."""
    await client.checkpoint("a")
    await client.restore("b", RestoreOptions(image_path="/images/a"))

    assert core.calls[0][2] == CheckpointOptions()
    assert core.calls[1][2] == RestoreOptions(image_path="/images/a")


async def test_options_that_are_said_arrive_as_said(client: AsyncClient, core: FakeTasks) -> None:
    """To say `auto` is not to say nothing: it comes before what is configured."""
    options = CheckpointOptions(
        engine=EngineName.AUTO, cuda=CudaMode.AUTO, connections=Connections.CUT
    )
    await client.checkpoint("a", options)

    assert core.calls == [("checkpoint", A, options)]
    assert options != CheckpointOptions()


async def test_images(client: AsyncClient, core: FakeTasks) -> None:
    """Images are listed, inspected with exact numbers, verified and removed."""
    updates: list[Progress] = []

    assert await client.images() == [IMAGE]
    assert await client.inspect("/images/a") == MANIFEST
    assert await client.verify("/images/a", Verify.AUTO, updates.append) == MANIFEST
    assert tuple(updates) == UPDATES
    await client.remove("/images/a")
    assert core.calls[-2:] == [
        ("verify", "/images/a", Verify.AUTO, "default"),
        ("remove", "/images/a", "default"),
    ]
    assert (await client.info())["runsc"] == "release-1"


async def test_names(client: AsyncClient, core: FakeTasks) -> None:
    """Names are listed with all that belongs to them, shown, dropped, and given to tasks."""
    ref = ImageRef(namespace="ns", name="llama", kubernetes_namespace="team-a")

    assert await client.names("k8s.io") == [NAME]
    assert await client.show_name("llama", "ns", kubernetes_namespace="team-a") == NAME
    assert await client.drop_name("llama", "ns") == 1
    assert await client.save_name("a", "llama") == RESULT

    assert core.calls == [
        ("names", "k8s.io"),
        ("show", ref),
        ("drop", ImageRef(namespace="ns", name="llama")),
        ("save", A, "llama"),
    ]
    with pytest.raises(InvalidArgument, match="image name"):
        await client.show_name("../other")


async def test_annotations_of_a_create(client: AsyncClient, core: FakeTasks) -> None:
    """They are added to those of the bundle; containerd's own options are something else."""
    await client.create("a", "/b", annotations={"io.cryo.warm": "llama"})

    assert core.calls == [
        ("create", CreateRequest(ref=A, bundle="/b", annotations={"io.cryo.warm": "llama"}))
    ]
    theirs = AnyMessage(type_url="containerd.runc.v1.Options", value=b"\x08\x01")
    foreign = shim_pb2.CreateTaskRequest(id="a", bundle="/b", options=theirs)
    assert task_messages.from_create(foreign, A).annotations == {}
    ours = AnyMessage(type_url="type.googleapis.com/cryo.v1.CreateOptions", value=b"\xff")
    with pytest.raises(InvalidArgument, match="garbled"):
        task_messages.from_create(shim_pb2.CreateTaskRequest(id="a", options=ours), A)


def test_the_blocking_client_does_the_same(blocking: Client, sidecar: Sidecar) -> None:
    """Every method of the blocking client makes the call that its name says."""
    updates: list[Progress] = []
    blocking.create("a", "/b", stdio=STDIO)
    blocking.start("a")
    assert blocking.state("a").stdio == STDIO
    blocking.exec("a", "e1", {"args": ["sh"]}, STDIO)
    blocking.pause("a")
    blocking.resume("a")
    blocking.update("a", {"cpu": {}})
    blocking.close_io("a")
    blocking.resize_pty("a", 80, 25)
    assert blocking.pids("a") == [1, 7, 8]
    assert blocking.stats("a").pids == 3
    assert [view.id for view in blocking.list()] == ["a"]
    assert blocking.checkpoint("a", CheckpointOptions(exit=True), updates.append) == RESULT
    assert blocking.restore("c", RestoreOptions(image_path="/i"), updates.append) == RESTORED
    assert blocking.verify("/i") == MANIFEST
    assert blocking.inspect("/i") == MANIFEST
    assert blocking.images() == [IMAGE]
    assert blocking.names() == [NAME]
    assert blocking.show_name("llama") == NAME
    assert blocking.drop_name("llama") == 1
    assert blocking.save_name("a", "llama", updates.append) == RESULT
    blocking.remove("/i")
    assert blocking.info()["engines"] == "builtin, phased"
    blocking.kill("a", 15)
    assert blocking.wait("a").status == 143
    assert blocking.delete("a").state is TaskState.DELETED

    assert tuple(updates) == UPDATES * 3
    assert {call[0] for call in sidecar.core.calls} >= {"exec", "pause", "resume", "update"}


def test_both_clients_have_the_same_methods() -> None:
    """A harness may change from one to the other without learning new names."""

    def names(kind: type) -> set[str]:
        return {name for name in vars(kind) if not name.startswith("_")}

    assert names(Client) == names(AsyncClient)
