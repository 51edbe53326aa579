"""A pod that is restored by its annotations: its members, those that the image lacks, its end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from signal import SIGQUIT, SIGTERM, SIGWINCH

import msgspec
import pytest

from shim.config import Pods
from shim.errors import CryoError, ImageCorrupt, InvalidArgument
from shim.model import Exit, Stdio, utcnow
from shim.oci.pod import IMAGE_NAME
from shim.state import TaskState
from shim.task.cold_pods import ColdPods
from shim.transaction.restore_txn import Restore
from tests.unit.fakes_pods import Pod
from tests.unit.fakes_tasks import owning

WAIT_S = 60
ALL = ("pod", "one", "two")


@pytest.fixture
async def pod(tmp_path: Path) -> AsyncIterator[Pod]:
    """Give a pod that names an image of itself, with two members and a finished container."""
    async with owning(tmp_path) as owner:
        owner.config = msgspec.structs.replace(owner.config, pods=Pods(restore=True))
        await owner.again()
        made = Pod(owner, "one", "two")
        await made.name("if-possible", finished=("init",))
        yield made


def cold(pod: Pod) -> str | None:
    """Return why the next sandbox of the pod starts cold, if it does."""
    found = ColdPods(pod.owner.runtime_env.layout.cold_pods).find("uid-1")
    return found.reason if found else None


def calls(pod: Pod, command: str) -> list[str]:
    """List the containers for which runsc was called with this command, by the supervisor."""
    spawned = (words for words in pod.owner.supervisor.spawned if command in words)
    return [words[-1].removesuffix("+") for words in spawned]


async def test_members_take_the_image_of_their_sandbox(pod: Pod) -> None:
    """They are found by name; none runs before the last Start, and then all do."""
    await pod.run("pod", "two")
    assert set(pod.states.values()) == {"restoring"}

    await pod.run("one")

    assert pod.states == dict.fromkeys(ALL, "running")
    assert calls(pod, "restore") == ["pod", "two", "one"]
    assert calls(pod, "create") == []
    assert cold(pod) is None
    records = [task.record for task in pod.owner.tasks._map]
    assert {record.image_path for record in records} == {str(pod.image)}


async def test_a_finished_container_is_not_run(pod: Pod) -> None:
    """An init container exits at once with success, before the load; its deletion ends nothing."""
    await pod.run("pod", "init")

    exit_ = await asyncio.wait_for(pod.owner.tasks.wait(pod.owner.ref("init")), WAIT_S)

    assert exit_.status == 0
    assert pod.owner.topics[-2:] == ["start", "exit"]
    await pod.owner.tasks.delete(pod.owner.ref("init"))
    await pod.run("one", "two")
    assert pod.states == dict.fromkeys(ALL, "running")
    assert "init" not in calls(pod, "create") + calls(pod, "restore")
    assert pod.owner.tasks._map.get(pod.owner.ref("pod")).record.finished == ("init",)


async def until_started(pod: Pod) -> None:
    """Wait until the containers that were held back are started."""
    background = pod.owner.tasks._owner.context().background
    starts = [one for one in background._tasks if one.get_name().startswith("start of")]
    await asyncio.wait_for(asyncio.gather(*starts), WAIT_S)


async def test_a_container_that_the_image_lacks_starts_after_the_load(pod: Pod) -> None:
    """Its Start returns at once; it is created when its sandbox runs."""
    await pod.run("pod", "more", "one")
    assert pod.states["more"] == "restoring"
    seen = [await pod.owner.tasks.state(pod.owner.ref(name)) for name in ("pod", "more", "one")]
    assert {view.state for view in seen} == {TaskState.RUNNING}  # for containerd, when it restarts
    assert calls(pod, "create") == []

    await pod.run("two")
    await until_started(pod)

    assert pod.states["more"] == "running"
    assert (calls(pod, "create"), calls(pod, "start")) == (["more"], ["more"])
    assert not pod.owner.tasks._task(pod.owner.ref("more")).start_answered


async def test_a_held_back_container_that_cannot_start_has_exited(pod: Pod) -> None:
    """The others keep running, and its exit is published with a warning."""
    pod.owner.supervisor.fails["create"] = ["no such file or directory"]
    await pod.run("pod", "more", "one", "two")

    exit_ = await asyncio.wait_for(pod.owner.tasks.wait(pod.owner.ref("more")), WAIT_S)

    assert exit_.status == 128
    (view,) = [task for task in await pod.owner.tasks.list("ns") if task.id == "more"]
    assert "was not started after the restore" in view.warning
    assert "/cryo/warning" in pod.owner.topics
    assert [pod.states[name] for name in ALL] == ["running"] * 3


async def test_after_the_load_containers_start_cold(pod: Pod) -> None:
    """A member that was killed, and one that was never in the image."""
    await pod.run(*ALL)
    tasks, ref = pod.owner.tasks, pod.owner.ref
    await tasks._task(ref("one")).init.end(Exit(status=137, at=utcnow()))
    await tasks.delete(ref("one"))

    await pod.run("one", "more")

    assert calls(pod, "create") == ["one", "more"]
    assert pod.states == dict.fromkeys((*ALL, "more"), "running")


async def test_an_exec_into_a_waiting_container_succeeds(pod: Pod, tmp_path: Path) -> None:
    """A probe or postStart hook is not run, and does not fail; a reader gets no output."""
    await pod.run("pod", "more", "one")
    tasks, output = pod.owner.tasks, tmp_path / "out"
    for name in ("one", "more"):
        await tasks.exec(pod.owner.ref(name), "probe", {"args": ["x"]}, Stdio(stdout=str(output)))
        await tasks.start(pod.owner.ref(name), "probe")
        exit_ = await asyncio.wait_for(tasks.wait(pod.owner.ref(name), "probe"), WAIT_S)
        assert (exit_.status, output.read_bytes()) == (0, b"")
        await tasks.delete(pod.owner.ref(name), "probe")
    assert calls(pod, "exec") == []
    assert pod.owner.topics[-3:] == ["exec-added", "exec-started", "exit"]

    await pod.run("two")

    assert not tasks._task(pod.owner.ref("one")).record.exec_ran
    await tasks.exec(pod.owner.ref("one"), "probe", {"args": ["x"]}, Stdio())
    await tasks.start(pod.owner.ref("one"), "probe")
    assert len(calls(pod, "exec")) == 1


@pytest.mark.parametrize("policy", ("always", "if-possible"))
@pytest.mark.parametrize("differs", ("args", "image"))
async def test_a_member_that_differs_ends_the_whole_attempt(
    pod: Pod, policy: str, differs: str
) -> None:
    """All exit with the sandbox, with the reason; if possible, the next sandbox starts cold."""
    pod.annotations[IMAGE_NAME] = "app:1"
    await pod.name(policy)
    await pod.run("pod", "more", "one")
    spec = pod.spec("two", **({IMAGE_NAME: "app:2"} if differs == "image" else {}))
    if differs == "args":
        spec["process"] = {**spec["process"], "args": ["/bin/other"]}

    with pytest.raises(InvalidArgument, match=r"app:2|/bin/other|other") as caught:
        await pod.owner.tasks.create(pod.request_with("two", spec))

    assert pod.states == dict.fromkeys(("pod", "more", "one"), "stopped")
    (view,) = [task for task in await pod.owner.tasks.list("ns") if task.id == "pod"]
    assert str(caught.value) in view.warning
    assert "/cryo/warning" in pod.owner.topics
    await pod.remove("more", "one", "pod")
    assert cold(pod) == (str(caught.value) if policy == "if-possible" else None)
    await pod.run("pod")
    record = pod.owner.tasks._task(pod.owner.ref("pod")).record
    assert bool(record.image_path) == (policy == "always")
    if policy == "if-possible":
        assert str(caught.value) in record.notices[0]
        assert record.named is not None
        assert record.named.failed_image == str(pod.image)  # a warm start replaces it
        await pod.owner.tasks.create(pod.request_with("two", spec))
        await pod.start("two")
        assert pod.states == {"pod": "running", "two": "running"}


@pytest.mark.parametrize("sent", (SIGTERM, SIGQUIT))
async def test_a_signal_to_one_ends_all(pod: Pod, sent: int) -> None:
    """The kubelet stops containers with whatever signal their image names."""
    await pod.run("pod", "more", "one")
    tasks, ref = pod.owner.tasks, pod.owner.ref
    await tasks.kill(ref("one"), SIGWINCH)
    assert pod.states["one"] == "restoring"

    await tasks.kill(ref("more"), sent)

    assert pod.states == dict.fromkeys(("pod", "more", "one"), "stopped")
    assert (await tasks.state(ref("more"))).state is TaskState.STOPPED
    with pytest.raises(CryoError, match="stopped"):
        await tasks.exec(ref("more"), "probe", {"args": ["x"]}, Stdio())
    await pod.remove("more", "one", "pod")
    assert tasks.empty
    await pod.run("pod")  # the image may fit: it was not the reason
    named = tasks._task(ref("pod")).record.named
    assert named is not None
    assert (named.reason != "", named.failed_image) == (True, "")


async def test_a_container_that_never_comes(pod: Pod, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each Start has its own time, less than the kubelet's, and so has the wait for the next."""
    await pod.run("pod", "one")
    pending = pod.owner.tasks._pod_restores._pending[pod.owner.ref("pod")]
    assert pending._restore.timeout_s == Pods().start_timeout < 120
    first = pending._timer
    await pod.run("more")
    assert pending._timer is not first
    monkeypatch.setattr(Restore, "timeout_s", 0.0)

    await asyncio.wait_for(pending._expire(), WAIT_S)

    assert pod.states == dict.fromkeys(("pod", "one", "more"), "stopped")
    assert "two had not been started; more, which the image lacks, waits" in (cold(pod) or "")


async def test_a_start_that_fails_is_noted_before_anything_exits(pod: Pod) -> None:
    """The kubelet may make the next sandbox as soon as it has seen an exit."""
    await pod.run("pod", "one")
    pod.owner.supervisor.fails["restore"] = ["no such file or directory"]

    with pytest.raises(CryoError, match="no such file"):
        await pod.run("two")

    warned = pod.owner.topics.index("/cryo/warning")
    assert warned < pod.owner.topics.index("exit")
    assert cold(pod) is not None
    assert TaskState.RESTORING not in set(pod.states.values())


@pytest.mark.parametrize("policy", ("always", "if-possible"))
@pytest.mark.parametrize("damage", ("pages", "runsc"))
async def test_a_sandbox_that_cannot_be_begun_starts_cold_at_once(
    pod: Pod, policy: str, damage: str
) -> None:
    """No other container has been started yet, so its own Start needs no other sandbox."""
    await pod.name(policy)
    if damage == "pages":
        (pod.image / "pages.img").write_bytes(b"other")
    pod.owner.supervisor.fails["restore"] = ["statefile error: hash mismatch"]

    if policy == "always":
        with pytest.raises(ImageCorrupt):
            await pod.run("pod")
        assert pod.states == {"pod": "stopped"}
        return
    await pod.run(*ALL)

    assert calls(pod, "create") == list(ALL)
    assert pod.states == dict.fromkeys(ALL, "running")
    (notice,) = pod.owner.tasks._task(pod.owner.ref("pod")).record.notices
    assert notice.startswith("started cold instead of from the image saved")
    assert cold(pod) is None
    assert pod.owner.topics.count("start") == 3
    assert "exit" not in pod.owner.topics


async def test_the_end_of_a_waiting_sandbox_is_seen(pod: Pod) -> None:
    """Its crash ends the containers that wait in it, also those that are held back."""
    await pod.run("pod", "more", "one")
    tasks, ref = pod.owner.tasks, pod.owner.ref

    pod.owner.kill_sandbox(tasks._task(ref("pod")).record.pid)

    for name in ("pod", "more", "one"):
        await asyncio.wait_for(tasks.wait(ref(name)), WAIT_S)
    assert cold(pod) is not None
    await pod.remove("more", "one", "pod")
    assert tasks.empty
