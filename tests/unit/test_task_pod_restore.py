"""A restore by one Start for each container: how it ends when no more Starts come."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from signal import SIGKILL
from typing import Any

import pytest

from shim import failpoints
from shim.errors import CryoError, CudaError, FailedPrecondition, NotFound
from shim.host.background import BackgroundTasks
from shim.image.verify import read_manifest
from shim.image.verify_cache import VerifyCache
from shim.model import Phase, Progress, TaskRef
from shim.state import TaskState
from shim.task.container import Container
from shim.task.pod_restore import PendingPodRestore
from shim.transaction.restore_txn import Restore
from tests.unit.fakes_pods import Pod
from tests.unit.fakes_runsc import capabilities
from tests.unit.fakes_tasks import Owner, owning

WAIT_S = 60


class Waiting:
    """A restore whose sandbox is there, and which waits for another container."""

    def __init__(self, owner: Owner) -> None:
        self.owner = owner
        self.task: Container = owner.tasks._task(owner.ref())
        self.over = 0
        self.made = PendingPodRestore(
            self.task, owner.config, capabilities(), BackgroundTasks(), self._over
        )
        self.made._tasks.append(self.task)
        self.task.machine.move(TaskState.RESTORING)

    def _over(self) -> None:
        self.over += 1


@pytest.fixture
async def waiting(tmp_path: Path) -> AsyncIterator[Waiting]:
    """Give one."""
    async with owning(tmp_path) as owner:
        await owner.tasks.create(owner.request())
        yield Waiting(owner)


@pytest.mark.parametrize("error", (CudaError("not removed"), asyncio.CancelledError()))
async def test_a_stop_that_fails_ends_it_all_the_same(
    waiting: Waiting, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    """No task stays in the restore, also when it is not removed or the caller has left."""

    async def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(Restore, "roll_back", fail)

    with pytest.raises(type(error)):
        await waiting.made.stop()

    assert waiting.over == 1
    assert waiting.task.state is TaskState.CREATED
    await waiting.owner.tasks.delete(waiting.owner.ref())


async def test_the_time_ends_while_a_start_is_under_way(
    waiting: Waiting, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where that Start does not complete it, it is ended then."""
    asked, rolled_back = asyncio.Event(), asyncio.Event()
    late = Restore.late

    def on_progress(restore: Restore) -> Any:
        asked.set()
        return late(restore)

    async def roll_back(_restore: Restore, _cause: CryoError) -> None:
        rolled_back.set()

    monkeypatch.setattr(Restore, "timeout_s", 0.0)
    monkeypatch.setattr(Restore, "late", on_progress)
    monkeypatch.setattr(Restore, "roll_back", roll_back)

    async with waiting.made._lock:
        alarm = asyncio.ensure_future(waiting.made._expire())
        await asyncio.wait_for(asked.wait(), WAIT_S)
        await asyncio.sleep(0)
        assert not rolled_back.is_set()
    await asyncio.wait_for(alarm, WAIT_S)

    assert rolled_back.is_set()
    assert waiting.over == 1


async def test_warnings_of_a_start_stay_with_the_task(waiting: Waiting) -> None:
    """Its caller sees no progress, so the task and the events carry them."""
    waiting.made._keep_warning(
        Progress(phase=Phase.VERIFY, message="it has no network", warning=True)
    )
    waiting.made._keep_warning(Progress(phase=Phase.VERIFY, message="read", warning=False))

    (view,) = await waiting.owner.tasks.list("ns")
    assert view.warning == "it has no network"
    assert waiting.owner.topics[-1] == "/cryo/warning"


async def test_a_task_whose_sandbox_has_exited_is_deleted(
    waiting: Waiting, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its restore is over then, and does nothing to the next task of its name."""
    tasks, ref = waiting.owner.tasks, waiting.owner.ref()
    rolled_back: list[TaskRef] = []

    async def roll_back(_restore: Restore, _cause: CryoError) -> None:
        rolled_back.append(ref)

    monkeypatch.setattr(Restore, "roll_back", roll_back)
    tasks._pod_restores._pending[ref] = waiting.made
    waiting.owner.kill_sandbox(waiting.task.record.pid)
    await asyncio.wait_for(tasks.wait(ref), WAIT_S)

    await tasks.delete(ref)

    assert rolled_back == [ref]
    assert waiting.over == 1


@pytest.fixture
async def pod(tmp_path: Path) -> AsyncIterator[Pod]:
    """Give a pod of two containers and their sandbox, and its image."""
    async with owning(tmp_path) as owner:
        made = Pod(owner, "one", "two")
        await made.save()
        yield made


async def test_runsc_is_not_asked_before_the_image_is_loaded(pod: Pod) -> None:
    """A sandbox without a kernel does not survive `runsc events`."""
    tasks, ref = pod.owner.tasks, pod.owner.ref
    await pod.create("pod", "one", "two")
    await pod.start("pod", "one")

    for name in ("pod", "one", "two"):
        with pytest.raises(FailedPrecondition, match="before it is restored"):
            await tasks.stats(ref(name))
        with pytest.raises(FailedPrecondition, match="before it is restored"):
            await tasks.update(ref(name), {})
        await tasks.pids(ref(name))

    assert not {"events", "update"} & set(pod.owner.commands)
    await pod.start("two")
    assert {task.state for task in await tasks.list("ns")} == {TaskState.RUNNING}


@pytest.mark.parametrize(
    ("stuck", "fails"),
    (("pod", True), ("one", True), ("two", True), ("pod", False), ("one", False)),
)
async def test_a_failed_removal_leaves_tasks_that_can_be_removed(
    pod: Pod, stuck: str, fails: bool
) -> None:
    """Whichever container runsc fails to delete, all have exited, and take a Kill and a Delete."""
    tasks, ref = pod.owner.tasks, pod.owner.ref
    await pod.create("pod", "one", "two")
    await pod.start("pod", "one")
    pod.stick(stuck)

    pod.half_restore("two")
    end = pod.start("two") if fails else tasks.kill(ref("one"), SIGKILL)
    with pytest.raises(CryoError, match="rollback failed"):
        await end

    states = {task.id: task.state for task in await tasks.list("ns")}
    joined = states if fails else ("pod", "one")
    assert {states[name] for name in joined} == {TaskState.STOPPED}
    pod.stick()
    for name in ("two", "one", "pod"):
        with contextlib.suppress(NotFound):  # it has exited
            await tasks.kill(ref(name), SIGKILL)
        await asyncio.wait_for(tasks.wait(ref(name)), WAIT_S)
        await tasks.delete(ref(name))
    assert tasks.empty


class Beside:
    """The image of a pod that was read before on this host, and whose pages wait to be read."""

    def __init__(self, pod: Pod) -> None:
        self.image = pod.image
        self.may_read = threading.Event()
        cache = VerifyCache(Path(pod.owner.config.paths.verified))
        assert cache.remember_image(pod.image, read_manifest(pod.image))

    def damage(self) -> None:
        """Change one byte of the pages."""
        pages = self.image / "pages.img"
        pages.write_bytes(pages.read_bytes()[:-1] + b"\x08")

    def hook(self, point: str) -> None:
        """Let the reading wait."""
        if point == "image.verify-pages:before":
            assert self.may_read.wait(WAIT_S)


@pytest.fixture
def beside(pod: Pod) -> Iterator[Beside]:
    """Give one."""
    made = Beside(pod)
    failpoints.arm(made.hook)
    yield made
    made.may_read.set()
    failpoints.arm(None)


async def test_damage_found_between_two_starts(pod: Pod, beside: Beside) -> None:
    """All containers end at once, and no other Start is waited for."""
    beside.damage()
    await pod.create("pod", "one", "two")
    await pod.start("pod", "one")
    assert pod.states["pod"] == "restoring"

    beside.may_read.set()
    for name in ("pod", "one"):
        await asyncio.wait_for(pod.owner.tasks.wait(pod.owner.ref(name)), WAIT_S)

    with pytest.raises(CryoError):
        await pod.start("two")
    assert pod.states == {"pod": "stopped", "one": "stopped", "two": "created"}


async def test_the_exit_of_a_pod_whose_pages_are_read(pod: Pod, beside: Beside) -> None:
    """It is published only when the restore has ended, however soon the sandbox exits."""
    for path in pod.image.iterdir():
        path.touch()
    await pod.create("pod", "one", "two")
    await pod.start("pod", "one")
    pod.owner.supervisor.making.clear()
    last = asyncio.ensure_future(pod.start("two"))
    root = pod.owner.tasks._task(pod.owner.ref("pod"))
    await asyncio.wait_for(pod.owner.supervisor.making.wait(), WAIT_S)
    pod.owner.kill_sandbox(root.record.pid)
    await asyncio.wait_for(root.init.process.ended.get(), WAIT_S)
    for _ in range(100):
        await asyncio.sleep(0)
    assert "exit" not in pod.owner.topics

    beside.may_read.set()
    await asyncio.wait({last}, timeout=WAIT_S)

    await asyncio.wait_for(pod.owner.tasks.wait(pod.owner.ref("pod")), WAIT_S)
    assert "exit" in pod.owner.topics
