"""Tasks in the making: who asks meanwhile, two who begin at once, and removals that fail."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from shim.config import Timeouts
from shim.errors import AlreadyExists, Busy, DeadlineExceeded, IllegalState, NotFound, RunscError
from shim.host import mounts
from shim.model import CreateRequest, Mount, TaskRef
from shim.state import TaskState, require
from shim.task import rootfs
from shim.task.origin import Origin
from shim.task.recovery import Recovery
from tests.unit.fakes_tasks import Owner, owning

WAIT_S = 60


@pytest.fixture
async def owner(tmp_path: Path) -> AsyncIterator[Owner]:
    """Give an owner with no tasks."""
    async with owning(tmp_path) as made:
        yield made


class Gate:
    """Holds up `runsc create` until it is opened."""

    def __init__(self, owner: Owner, monkeypatch: pytest.MonkeyPatch) -> None:
        self.reached, self.open = asyncio.Event(), asyncio.Event()
        plain = owner.supervisor.spawn

        async def spawn(argv: Any, **more: Any) -> Any:
            if "create" in argv:
                self.reached.set()
                await self.open.wait()
            return await plain(argv, **more)

        monkeypatch.setattr(owner.supervisor, "spawn", spawn)


# -- while Create runs ---------------------------------------------------------------------------


async def test_questions_wait_for_a_create(owner: Owner, monkeypatch: pytest.MonkeyPatch) -> None:
    """A client whose input ends early asks State, and would take NotFound for the task's end."""
    gate = Gate(owner, monkeypatch)
    making = asyncio.create_task(owner.tasks.create(owner.request()))
    await asyncio.wait_for(gate.reached.wait(), WAIT_S)
    asked = asyncio.create_task(owner.tasks.state(owner.ref()))
    closing = asyncio.create_task(owner.tasks.close_io(owner.ref()))
    waiting = asyncio.create_task(owner.tasks.wait(owner.ref()))
    await asyncio.sleep(0)
    assert not any(task.done() for task in (asked, closing, waiting))

    gate.open.set()
    await making
    await asyncio.wait_for(closing, WAIT_S)

    assert (await asked).state is TaskState.CREATED
    await owner.tasks.kill(owner.ref(), 9)
    assert (await asyncio.wait_for(waiting, WAIT_S)).status == 137


async def test_questions_wait_for_the_choice_of_an_image(
    owner: Owner, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The name is taken before it is decided what the task is made from, which may take long."""
    plain, deciding, decided = owner.tasks._origins.decide, asyncio.Event(), asyncio.Event()

    async def decide(request: CreateRequest) -> Origin:
        deciding.set()
        await decided.wait()
        return await plain(request)

    monkeypatch.setattr(owner.tasks._origins, "decide", decide)
    making = asyncio.create_task(owner.tasks.create(owner.request()))
    await asyncio.wait_for(deciding.wait(), WAIT_S)
    asked = asyncio.create_task(owner.tasks.state(owner.ref()))
    await asyncio.sleep(0)

    assert not owner.tasks.empty
    with pytest.raises(AlreadyExists):
        await owner.tasks.create(owner.request())
    decided.set()
    await making
    assert (await asked).state is TaskState.CREATED


async def test_a_create_that_fails_has_made_nothing(
    owner: Owner, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A waiter gets the error that there is no task."""
    gate = Gate(owner, monkeypatch)
    owner.supervisor.fails["create"] = ["no"]
    making = asyncio.create_task(owner.tasks.create(owner.request()))
    await asyncio.wait_for(gate.reached.wait(), WAIT_S)
    asked = asyncio.create_task(owner.tasks.state(owner.ref()))
    await asyncio.sleep(0)
    gate.open.set()

    with pytest.raises(RunscError):
        await making
    with pytest.raises(NotFound):
        await asked


async def test_a_create_that_takes_too_long(tmp_path: Path) -> None:
    """The wait for it has a deadline."""
    async with owning(tmp_path) as owner:
        owner.config = msgspec.structs.replace(owner.config, timeouts=Timeouts(create=0.01))
        tasks = await owner.again()

        with tasks._map.creating(owner.ref()), pytest.raises(Busy, match="still being created"):
            await tasks.state(owner.ref())


# -- at once -------------------------------------------------------------------------------------


async def test_two_starts_are_one_restore(owner: Owner, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each Start of a pod's container joins the one restore of its sandbox."""
    await owner.tasks.create(owner.request())
    task = owner.tasks._task(owner.ref())
    pending = SimpleNamespace(detach=lambda: None)
    monkeypatch.setattr("shim.task.pod_restore.PendingPodRestore", lambda *_: pending)
    restores = owner.tasks._pod_restores

    first, second = await asyncio.gather(restores._find(task), restores._find(task))

    assert first is second


async def test_tasks_are_taken_over_a_few_at_a_time(
    owner: Owner, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each runs several commands of runsc: with hundreds at once none would end in time."""
    await owner.running()
    refs = [owner.ref(f"t{number}") for number in range(20)]
    monkeypatch.setattr(type(owner.runtime_env.layout), "found", lambda _: iter(refs))
    running, most, seen = 0, 0, set[TaskRef]()

    async def adopt(_self: Recovery, ref: TaskRef) -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        running -= 1
        seen.add(ref)

    monkeypatch.setattr(Recovery, "_adopt", adopt)
    await owner.again(killed=True)

    assert seen == set(refs)
    assert 1 < most <= 4


# -- removals that fail --------------------------------------------------------------------------


async def test_what_cannot_be_removed_stays_listed(
    owner: Owner, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A sandbox that outlives a failed create has an owner, who can kill and delete it."""
    owner.script.prints("delete", err="device or resource busy\n", status=128)

    async def broken(*_: object, **__: object) -> None:
        raise RunscError("create", 1, "no terminal")

    monkeypatch.setattr("shim.task.streams.ProcessStreams.connect", broken)
    with pytest.raises(RunscError, match="no terminal"):
        await owner.tasks.create(owner.request())

    (view,) = await owner.tasks.list("ns")
    assert "could not be removed" in view.warning
    assert "device or resource busy" in caplog.text
    owner.script.on("delete", "exit 0")
    await owner.tasks.delete(owner.ref())
    assert await owner.tasks.list("ns") == []


async def test_a_restore_that_cannot_be_removed(
    owner: Owner, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its task does not stay in restoring: it can be killed and deleted."""

    class Restore:
        """A restore that fails, and whose sandbox stays."""

        over, missing = False, ()

        def __init__(self, *_: object) -> None:
            """Take what a restore takes."""

        def report_failure_to(self, *_: object) -> None:
            """Have nothing to report."""

        async def attempt(self, work: Any) -> None:
            """Fail."""
            work.close()
            self.over = True
            raise RunscError("delete", 1, "device or resource busy")

    monkeypatch.setattr("shim.task.pod_restore.Restore", Restore)
    await owner.tasks.create(owner.request())
    store = owner.tasks._task(owner.ref()).store
    store.record = msgspec.structs.replace(store.record, image_path="/image")
    with pytest.raises(RunscError):
        await owner.tasks.start(owner.ref())

    (view,) = await owner.tasks.list("ns")
    assert "could be removed" in view.warning
    await owner.tasks.kill(owner.ref(), 9)
    assert (await asyncio.wait_for(owner.tasks.wait(owner.ref()), WAIT_S)).status == 137
    await owner.tasks.delete(owner.ref())


async def test_a_cancelled_delete_that_was_done(
    owner: Owner, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The id is free: no deleted task stays in the list."""
    pid = await owner.running()
    owner.kill_sandbox(pid)
    await owner.tasks.wait(owner.ref())
    task = owner.tasks._task(owner.ref())
    plain, reached = task.clear, asyncio.Event()

    async def clear() -> None:
        reached.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            await plain()

    monkeypatch.setattr(task, "clear", clear)
    deleting = asyncio.create_task(owner.tasks.delete(owner.ref()))
    await asyncio.wait_for(reached.wait(), WAIT_S)
    deleting.cancel()
    await asyncio.wait({deleting})

    assert await owner.tasks.list("ns") == []


# -- remedies ------------------------------------------------------------------------------------


@pytest.mark.parametrize("state", (TaskState.RUNNING, TaskState.PAUSED))
def test_how_a_task_that_runs_is_deleted(state: TaskState) -> None:
    """It is killed first; neither a pause nor a resume would help."""
    with pytest.raises(IllegalState) as caught:
        require("a", state, TaskState.CREATED, TaskState.STOPPED, verb="delete")

    assert caught.value.remedy == "kill it first, then delete it"


# -- the rootfs ----------------------------------------------------------------------------------

OVERLAY = (Mount(type="overlay", source="overlay", options=("lowerdir=/x",)),)


class Kernel:
    """Mounts that take a configured time."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.gate, self.undone = threading.Event(), threading.Event()
        self.threads: list[str] = []
        monkeypatch.setattr(mounts, "mount_all", lambda *_: self.wait())
        monkeypatch.setattr(mounts, "unmount", self.unmount)

    def wait(self) -> None:
        """Hang."""
        self.threads.append(threading.current_thread().name)
        assert self.gate.wait(WAIT_S)

    def unmount(self, _path: Path, *, lazy: bool = False) -> None:
        """Unmount: lazily what came too late."""
        if lazy:
            self.undone.set()
        else:
            self.wait()


async def test_a_mount_that_hangs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The loop goes on, the caller gets an error, and a late mount is unmounted again."""
    kernel = Kernel(monkeypatch)

    with pytest.raises(DeadlineExceeded, match="mounting") as caught:
        await rootfs.mount(OVERLAY, tmp_path, 0.01)
    assert caught.value.remedy
    kernel.gate.set()

    assert await asyncio.to_thread(kernel.undone.wait, WAIT_S)
    assert kernel.threads != ["MainThread"]


async def test_an_unmount_that_hangs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It ends by itself later; a second try is a second call."""
    kernel = Kernel(monkeypatch)

    with pytest.raises(DeadlineExceeded, match="unmounting"):
        await rootfs.unmount(tmp_path, 0.01)
    kernel.gate.set()

    await rootfs.unmount(tmp_path, WAIT_S)
    assert not kernel.undone.is_set()


async def test_a_mount_that_fails(tmp_path: Path) -> None:
    """Its error is the kernel's."""
    with pytest.raises(NotFound):
        await rootfs.mount(
            (Mount(type="bind", source=str(tmp_path / "none"), options=("bind",)),),
            tmp_path,
            WAIT_S,
        )
