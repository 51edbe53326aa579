"""Tasks of an owner process: states, ends, refusals, and what the next owner finds."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest

from shim.errors import (
    AlreadyExists,
    Busy,
    FailedPrecondition,
    IllegalState,
    InvalidArgument,
    InvalidBundle,
    NotFound,
    RunscError,
    Unavailable,
)
from shim.host import procs
from shim.model import CheckpointOptions, CreateRequest, Progress, Stdio
from shim.state import TaskState
from shim.task import record as records
from tests.unit.fakes_tasks import SPEC, Owner, owning


@pytest.fixture
async def owner(tmp_path: Path) -> AsyncIterator[Owner]:
    """Give an owner with no tasks."""
    async with owning(tmp_path) as made:
        yield made


def silent(_progress: Progress) -> None:
    """Hear nothing."""


async def test_a_life(owner: Owner) -> None:
    """Created, running, ended with its own status, deleted; each step is published."""
    tasks, ref = owner.tasks, owner.ref()

    pid = await tasks.create(owner.request())
    assert (await tasks.state(ref)).state is TaskState.CREATED
    assert await tasks.start(ref) == pid
    assert (await tasks.state(ref)).state is TaskState.RUNNING
    await tasks.kill(ref, 9)
    ended = await tasks.wait(ref)
    assert ended.status == 137
    assert (await tasks.state(ref)).state is TaskState.STOPPED
    last = await tasks.delete(ref)

    assert last.exit == ended
    assert owner.topics == ["create", "start", "exit", "delete"]
    assert not owner.record_folder().exists()
    with pytest.raises(NotFound):
        await tasks.state(ref)


async def test_the_bundle_that_runsc_sees(owner: Owner) -> None:
    """A copy of the spec with an absolute root; the user's own is not touched."""
    before = (owner.bundle / "config.json").read_bytes()
    await owner.tasks.create(owner.request())

    ours = json.loads((owner.record_folder() / "bundle" / "config.json").read_text())

    assert ours["root"]["path"] == str(owner.bundle / "rootfs")
    assert (owner.bundle / "config.json").read_bytes() == before


async def test_wait_before_and_after_the_end(owner: Owner) -> None:
    """Both get the same answer, and so does one who asks later."""
    pid = await owner.running()
    waiting = asyncio.create_task(owner.tasks.wait(owner.ref()))
    await asyncio.sleep(0)
    owner.kill_sandbox(pid)

    assert await waiting == await owner.tasks.wait(owner.ref())


async def test_an_id_is_taken_once(owner: Owner) -> None:
    """Also while the first create is still under way."""
    first = asyncio.create_task(owner.tasks.create(owner.request()))
    await asyncio.sleep(0)
    with pytest.raises(AlreadyExists):
        await owner.tasks.create(owner.request())
    await first
    with pytest.raises(AlreadyExists):
        await owner.tasks.create(owner.request())


async def test_ids_that_begin_alike_are_different_tasks(owner: Owner) -> None:
    """`a` and `ab` live side by side, and the end of one is not that of the other."""
    first = await owner.running()
    second = await owner.tasks.create(owner.request("ab"))
    assert first != second

    await owner.tasks.kill(owner.ref(), 9)
    await owner.tasks.wait(owner.ref())
    await owner.tasks.delete(owner.ref())

    assert [view.id for view in await owner.tasks.list("ns")] == ["ab"]
    assert procs.is_alive(second, procs.start_time(second) or 0)
    assert await owner.tasks.list("other") == []


async def test_names_are_per_namespace(owner: Owner) -> None:
    """The same id in another namespace is another task."""
    await owner.running()

    with pytest.raises(NotFound, match="namespace other"):
        await owner.tasks.state(type(owner.ref())(namespace="other", id="a"))


# -- what a state allows -------------------------------------------------------------------------


async def test_what_a_created_task_allows(owner: Owner) -> None:
    """It can be started, ended and deleted, and nothing else."""
    tasks, ref = owner.tasks, owner.ref()
    await tasks.create(owner.request())

    for refused in (
        tasks.pause(ref),
        tasks.resume(ref),
        tasks.exec(ref, "e", {}, Stdio()),
        tasks.checkpoint(ref, CheckpointOptions(), silent),
    ):
        with pytest.raises(IllegalState, match="is created"):
            await refused
    with pytest.raises(FailedPrecondition, match="has not been started"):
        await tasks.kill(ref, 1)
    await tasks.kill(ref, 15)
    assert (await tasks.wait(ref)).status == 137
    assert owner.commands == []


async def test_a_created_task_can_be_deleted(owner: Owner) -> None:
    """Its sandbox goes with it."""
    pid = await owner.tasks.create(owner.request())

    await owner.tasks.delete(owner.ref())

    assert procs.start_time(pid) is None


async def test_a_running_task_cannot_be_deleted(owner: Owner) -> None:
    """Nor started again, nor resumed."""
    await owner.running()

    for refused in (
        owner.tasks.delete(owner.ref()),
        owner.tasks.start(owner.ref()),
        owner.tasks.resume(owner.ref()),
    ):
        with pytest.raises(IllegalState, match="is running"):
            await refused


async def test_a_paused_task_is_killed_all_the_same(owner: Owner) -> None:
    """Runsc refuses to signal it, so it is resumed first."""
    await owner.running()
    await owner.tasks.pause(owner.ref())
    assert (await owner.tasks.state(owner.ref())).state is TaskState.PAUSED

    await owner.tasks.kill(owner.ref(), 9)
    await owner.tasks.wait(owner.ref())

    assert owner.commands == ["start", "pause", "resume", "kill"]
    assert owner.topics == ["create", "start", "paused", "exit"]


@pytest.mark.parametrize("signal", (9, 15))
async def test_a_sentry_that_does_not_kill(owner: Owner, signal: int) -> None:
    """KILL ends the sandbox all the same; any other signal is for the program."""
    await owner.running()
    owner.script.prints("kill", err="deadline exceeded\n", status=128)

    if signal == 9:
        await owner.tasks.kill(owner.ref(), signal)
        assert (await owner.tasks.wait(owner.ref())).status == 137
        assert owner.topics[-1] == "exit"
    else:
        with pytest.raises(RunscError, match="deadline exceeded"):
            await owner.tasks.kill(owner.ref(), signal)
        assert (await owner.tasks.state(owner.ref())).state is TaskState.RUNNING


async def test_pause_and_resume(owner: Owner) -> None:
    """There and back, each published."""
    await owner.running()
    await owner.tasks.pause(owner.ref())
    with pytest.raises(IllegalState):
        await owner.tasks.pause(owner.ref())
    await owner.tasks.resume(owner.ref())

    assert (await owner.tasks.state(owner.ref())).state is TaskState.RUNNING
    assert owner.topics[-2:] == ["paused", "resumed"]


async def test_a_pause_that_fails_changes_nothing(owner: Owner) -> None:
    """The state is what runsc says, not what was wished."""
    await owner.running()
    owner.script.prints("pause", err="no\n", status=128)

    with pytest.raises(RunscError):
        await owner.tasks.pause(owner.ref())

    assert (await owner.tasks.state(owner.ref())).state is TaskState.RUNNING
    assert "paused" not in owner.topics


async def test_an_ended_task(owner: Owner) -> None:
    """There is no process to signal or to measure; it can be deleted."""
    pid = await owner.running()
    owner.kill_sandbox(pid)
    await owner.tasks.wait(owner.ref())

    for refused in (owner.tasks.kill(owner.ref(), 9), owner.tasks.stats(owner.ref())):
        with pytest.raises(NotFound, match="has exited"):
            await refused
    with pytest.raises(IllegalState):
        await owner.tasks.pause(owner.ref())
    await owner.tasks.delete(owner.ref())


@pytest.mark.parametrize("number", (0, -1, 65, 1 << 31))
async def test_a_signal_that_is_none(owner: Owner, number: int) -> None:
    """Runsc is not asked."""
    await owner.running()

    with pytest.raises(InvalidArgument):
        await owner.tasks.kill(owner.ref(), number)
    assert owner.commands == ["start"]


async def test_during_a_checkpoint(owner: Owner, monkeypatch: pytest.MonkeyPatch) -> None:
    """Other operations fail with busy, and at once; its end makes it what it was."""
    begun, gate = asyncio.Event(), asyncio.Event()

    async def run(_self: object) -> object:
        begun.set()
        await gate.wait()
        raise RunscError("checkpoint", 1, "no")

    monkeypatch.setattr("shim.task.sandbox.Checkpoint.run", run)
    await owner.running()
    await owner.tasks.pause(owner.ref())
    work = asyncio.ensure_future(owner.tasks.checkpoint(owner.ref(), CheckpointOptions(), silent))
    await asyncio.wait_for(begun.wait(), 60)
    assert (await owner.tasks.state(owner.ref())).state is TaskState.CHECKPOINTING
    tasks, ref = owner.tasks, owner.ref()
    for refused in (
        tasks.resume(ref),
        tasks.kill(ref, 15),
        tasks.delete(ref),
        tasks.exec(ref, "e", {}, Stdio()),
        tasks.checkpoint(ref, CheckpointOptions(), silent),
    ):
        with pytest.raises(Busy) as caught:
            await asyncio.wait_for(refused, 60)
        assert caught.value.remedy
    gate.set()
    with pytest.raises(RunscError):
        await work

    assert (await owner.tasks.state(owner.ref())).state is TaskState.PAUSED
    assert "checkpointed" not in owner.topics


async def test_a_stop_waits_for_a_checkpoint(owner: Owner, monkeypatch: pytest.MonkeyPatch) -> None:
    """An owner that is asked to end finishes what is under way, and takes nothing new."""
    begun, gate = asyncio.Event(), asyncio.Event()

    async def run(_self: object) -> object:
        begun.set()
        await gate.wait()
        raise RunscError("checkpoint", 1, "rolled back")

    monkeypatch.setattr("shim.task.sandbox.Checkpoint.run", run)
    await owner.running()
    work = asyncio.ensure_future(owner.tasks.checkpoint(owner.ref(), CheckpointOptions(), silent))
    await asyncio.wait_for(begun.wait(), 60)
    closing = asyncio.create_task(owner.tasks.close())
    await asyncio.sleep(0.01)
    assert not closing.done()
    with pytest.raises(Unavailable, match="stopping"):
        await owner.tasks.pause(owner.ref())

    gate.set()
    await closing
    with pytest.raises(RunscError):
        await work


# -- creates that fail ---------------------------------------------------------------------------


def nothing_left(owner: Owner) -> bool:
    """Whether a failed create left neither a task nor a folder nor a process."""
    return (
        not owner.record_folder().exists()
        and all(child.returncode is not None for child in owner.supervisor.children.values())
        and owner.tasks.empty
    )


async def test_runsc_cannot_create(owner: Owner) -> None:
    """Its own words come out of its log; the id is free again."""
    owner.supervisor.fails["create"] = ["no such thing as a namespace"]

    with pytest.raises(RunscError, match="no such thing as a namespace"):
        await owner.tasks.create(owner.request())
    assert nothing_left(owner)

    owner.supervisor.fails.clear()
    assert await owner.tasks.create(owner.request())


async def test_a_container_that_runs_without_its_gpu(owner: Owner) -> None:
    """Its listing says so for as long as it runs, and so does an event, and the next owner."""
    spec = json.loads((owner.bundle / "config.json").read_text())
    spec["process"]["env"] = ["NVIDIA_VISIBLE_DEVICES=all"]
    (owner.bundle / "config.json").write_text(json.dumps(spec))

    await owner.running()

    (event,) = [one for one in owner.events if one.topic == "/cryo/warning"]
    assert "runs without" in str(event.fields["text"])
    assert "runs without" in (await owner.tasks.list("ns"))[0].warning
    tasks = await owner.again()
    assert "runs without" in (await tasks.list("ns"))[0].warning


async def test_a_cancelled_create(owner: Owner) -> None:
    """The caller left in the middle: runsc is ended, the id is free again."""
    owner.supervisor.gate = asyncio.Event()
    work = asyncio.create_task(owner.tasks.create(owner.request()))
    await asyncio.wait_for(owner.supervisor.making.wait(), 60)
    work.cancel()
    with pytest.raises(asyncio.CancelledError):
        await work

    assert nothing_left(owner)
    assert owner.events == []


@pytest.mark.parametrize(
    "text",
    (
        None,
        "",
        "{",
        "[]",
        json.dumps({**SPEC, "root": {"path": "nowhere"}}),
        json.dumps({**SPEC, "process": {"args": []}}),
    ),
)
async def test_a_broken_bundle(owner: Owner, text: str | None) -> None:
    """It is refused before anything is made."""
    config = owner.bundle / "config.json"
    config.unlink()
    if text is not None:
        config.write_text(text)

    with pytest.raises(InvalidBundle) as caught:
        await owner.tasks.create(owner.request())
    assert caught.value.remedy
    assert nothing_left(owner)
    assert owner.supervisor.spawned == []


async def test_a_relative_bundle(owner: Owner) -> None:
    """The owner has a working folder of its own."""
    with pytest.raises(InvalidArgument, match="absolute"):
        await owner.tasks.create(CreateRequest(ref=owner.ref(), bundle="bundle"))
    assert nothing_left(owner)


async def test_a_stream_that_cannot_be_opened(owner: Owner, tmp_path: Path) -> None:
    """It is found out before runsc is started."""
    with pytest.raises(NotFound):
        await owner.tasks.create(owner.request(stdio=Stdio(stdout=str(tmp_path / "none" / "out"))))
    assert nothing_left(owner)


# -- the end, whatever else is wrong -------------------------------------------------------------


async def test_an_end_is_reported_though_the_disk_is_full(owner: Owner) -> None:
    """A waiter for a task must not wait forever because a record cannot be written."""
    pid = await owner.running()
    (owner.record_folder() / "task.json.tmp").mkdir()
    owner.kill_sandbox(pid)

    ended = await asyncio.wait_for(owner.tasks.wait(owner.ref()), 60)

    assert ended.status == 137
    assert owner.topics[-1] == "exit"


async def test_an_end_is_reported_though_the_supervisor_is_gone(owner: Owner) -> None:
    """How it ended is then unknown; that it did is not."""
    await owner.tasks.create(owner.request())
    owner.supervisor.closed = True
    await owner.tasks.start(owner.ref())
    # The watch of a new owner, which asks a supervisor that cannot answer.
    tasks = await owner.again(killed=True)
    (child,) = [c for c in owner.supervisor.children.values() if c.returncode is None]
    child.kill()

    assert (await asyncio.wait_for(tasks.wait(owner.ref()), 60)).status == 255


# -- the next owner ------------------------------------------------------------------------------


async def test_tasks_survive_their_owner(owner: Owner) -> None:
    """Killed and started again, it knows its tasks, their states, and sees their exits."""
    pid = await owner.running()
    await owner.tasks.pause(owner.ref())

    tasks = await owner.again(killed=True)
    view = (await tasks.list("ns"))[0]
    assert (view.id, view.pid, view.state) == ("a", pid, TaskState.PAUSED)

    await tasks.resume(owner.ref())
    owner.kill_sandbox(pid)
    assert (await asyncio.wait_for(tasks.wait(owner.ref()), 60)).status == 137
    await tasks.delete(owner.ref())
    assert not owner.record_folder().exists()


async def test_an_end_between_two_owners(owner: Owner) -> None:
    """The supervisor knew how it ended."""
    pid = await owner.running()
    await owner.tasks.close()
    owner.kill_sandbox(pid)

    tasks = await owner.again(killed=True)

    assert (await asyncio.wait_for(tasks.wait(owner.ref()), 60)).status == 137


async def test_an_end_that_was_noted_is_kept(owner: Owner) -> None:
    """An ended task waits for its delete in the next owner too, with the same exit."""
    pid = await owner.running()
    owner.kill_sandbox(pid)
    ended = await owner.tasks.wait(owner.ref())

    tasks = await owner.again()

    assert await tasks.wait(owner.ref()) == ended
    assert (await tasks.state(owner.ref())).state is TaskState.STOPPED


@pytest.mark.parametrize(
    ("image_path", "one_call", "kept"),
    (("", False, False), ("/image", True, False), ("/image", False, True)),
    ids=("a create", "a restore by one call", "a create that waits for its Start"),
)
async def test_what_is_half_made_is_removed(
    owner: Owner, image_path: str, one_call: bool, kept: bool
) -> None:
    """Only a task that a Start is to restore is whole without a sandbox."""
    await owner.running()
    folder = owner.record_folder("half")
    folder.mkdir()
    record = records.load(owner.record_folder())
    assert record is not None
    half = msgspec.structs.replace(
        record, ref=owner.ref("half"), pid=0, image_path=image_path, one_call=one_call
    )
    records.save(folder, half)

    tasks = await owner.again(killed=True)

    assert ("half" in [view.id for view in await tasks.list("ns")]) is kept
    assert folder.exists() is kept


async def test_an_empty_folder_is_removed(owner: Owner) -> None:
    """Killed between making the folder and writing the record."""
    owner.record_folder("x").mkdir(parents=True)

    await owner.again(killed=True)

    assert not owner.record_folder("x").exists()


@pytest.mark.parametrize("name", ("task.json", "journal.json"))
@pytest.mark.parametrize("content", (b"", b"{", b"\xff", b"[" * 50_000))
async def test_a_damaged_record_does_not_stop_others(
    owner: Owner, name: str, content: bytes
) -> None:
    """The others are taken over; the damaged one stays on disk, and its id is not given away."""
    await owner.running()
    folder = owner.record_folder("bad")
    folder.mkdir()
    good = (owner.record_folder() / "task.json").read_bytes()
    (folder / "task.json").write_bytes(good.replace(b'"id":"a"', b'"id":"bad"'))
    (folder / name).write_bytes(content)

    tasks = await owner.again(killed=True)

    assert "a" in [view.id for view in await tasks.list("ns")]
    assert (folder / name).read_bytes() == content
    with pytest.raises(AlreadyExists):
        await tasks.create(owner.request("bad"))


async def test_operations_before_the_start(owner: Owner) -> None:
    """An owner that is not ready says so."""
    tasks = owner._new()

    with pytest.raises(Unavailable, match="not ready"):
        await tasks.create(owner.request())
    with pytest.raises(Unavailable):
        await tasks.list("ns")


async def test_a_stopped_task_has_its_exit(owner: Owner, monkeypatch: pytest.MonkeyPatch) -> None:
    """A view taken while a task ends has both its stopped state and its exit, or neither."""
    pid = await owner.running()
    task = owner.tasks._task(owner.ref())
    seen: list[tuple[bool, bool]] = []
    plain = task.init._oom.publish_last

    async def look() -> None:
        view = task.process_view()
        seen.append((view.state is TaskState.STOPPED, view.exit is not None))
        await plain()

    monkeypatch.setattr(task.init._oom, "publish_last", look)
    owner.kill_sandbox(pid)
    await owner.tasks.wait(owner.ref())

    assert seen == [(False, False)]
    view = task.process_view()
    assert (view.state, view.exit is not None) == (TaskState.STOPPED, True)


async def test_a_task_without_a_cgroup_path_has_one_of_its_own(owner: Owner) -> None:
    """Runsc would name it by its own id; the namespace distinguishes tasks of the same id."""
    await owner.tasks.create(owner.request())

    config = json.loads((owner.record_folder() / "bundle" / "config.json").read_text())
    assert config["linux"]["cgroupsPath"] == "/cryo@ns@a"
    assert "linux" not in json.loads((owner.record_folder() / "config.json").read_text())
