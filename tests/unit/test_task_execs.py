"""Processes added to a running task: their numbers, their ends, and callers who leave."""

from __future__ import annotations

import asyncio
import dataclasses
import json
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest

from shim.config import Timeouts
from shim.errors import (
    AlreadyExists,
    Busy,
    CryoError,
    DeadlineExceeded,
    FailedPrecondition,
    IllegalState,
    InvalidArgument,
    NotFound,
    RunscError,
)
from shim.host import procs
from shim.model import Stdio
from shim.simgpu.waiting import wait_until
from shim.state import TaskState
from shim.task import record as records
from shim.task.pidpipe import PidPipe
from tests.unit.fakes_tasks import Owner, owning

PROCESS = {"args": ["/bin/sh"], "cwd": "/", "env": ["A=b"]}


@pytest.fixture
async def owner(tmp_path: Path) -> AsyncIterator[Owner]:
    """Give an owner with a running task `a`."""
    async with owning(tmp_path) as made:
        await made.running()
        yield made


async def added(owner: Owner, name: str = "e") -> None:
    """Add a process."""
    await owner.tasks.exec(owner.ref(), name, PROCESS, Stdio())


def execs_alive(owner: Owner) -> int:
    """Count the processes that are left, but for the sandbox."""
    return sum(child.returncode is None for child in owner.supervisor.children.values()) - 1


async def test_a_life(owner: Owner) -> None:
    """Added, started with its number in the container, killed, deleted; each step is published."""
    await added(owner)
    assert (await owner.tasks.state(owner.ref(), "e")).state is TaskState.CREATED

    pid = await owner.tasks.start(owner.ref(), "e")
    view = await owner.tasks.state(owner.ref(), "e")
    assert (view.state, view.pid) == (TaskState.RUNNING, pid)
    await owner.tasks.kill(owner.ref(), 9, exec_id="e")
    ended = await owner.tasks.wait(owner.ref(), "e")
    last = await owner.tasks.delete(owner.ref(), "e")

    assert ended.status == 137
    assert last.exit == ended
    assert owner.topics[2:] == ["exec-added", "exec-started", "exit"]
    assert (await owner.tasks.state(owner.ref())).state is TaskState.RUNNING
    with pytest.raises(NotFound):
        await owner.tasks.state(owner.ref(), "e")


async def test_what_runsc_gets(owner: Owner) -> None:
    """The process comes from a file, so that no word of it is taken for an option."""
    await added(owner)
    await owner.tasks.start(owner.ref(), "e")

    argv = owner.supervisor.spawned[-1]
    (path,) = (word.removeprefix("--process=") for word in argv if word.startswith("--process="))
    assert json.loads(Path(path).read_text()) == {**PROCESS, "terminal": False}
    assert argv[-1] == "a+"


async def test_its_own_exit_status(owner: Owner) -> None:
    """The program's own status is published, however soon it exits."""
    owner.supervisor.program = ("/bin/sh", "-c", "exit 3")
    await added(owner)
    await owner.tasks.start(owner.ref(), "e")

    assert (await owner.tasks.wait(owner.ref(), "e")).status == 3


async def test_an_id_is_taken_once(owner: Owner) -> None:
    """And must be a safe file name."""
    await added(owner)
    with pytest.raises(AlreadyExists):
        await added(owner)
    for name in ("../x", "a/b", ".", "x" * 100):
        with pytest.raises(InvalidArgument):
            await added(owner, name)


async def test_what_its_state_allows(owner: Owner) -> None:
    """Nothing is done twice, and nothing to what does not run."""
    await added(owner)
    with pytest.raises(NotFound, match="not running"):
        await owner.tasks.kill(owner.ref(), 9, exec_id="e")
    await owner.tasks.start(owner.ref(), "e")
    with pytest.raises(IllegalState):
        await owner.tasks.start(owner.ref(), "e")
    with pytest.raises(IllegalState, match="is running"):
        await owner.tasks.delete(owner.ref(), "e")
    with pytest.raises(FailedPrecondition, match="no terminal"):
        await owner.tasks.resize_pty(owner.ref(), 80, 24, "e")


async def test_one_that_was_never_started(owner: Owner) -> None:
    """It can be deleted."""
    await added(owner)

    last = await owner.tasks.delete(owner.ref(), "e")

    assert last.exit is not None
    assert last.exit.status == 0


async def test_an_exit_that_arrives_before_the_pid(
    owner: Owner, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A program that has exited before its number was read has been started all the same."""

    async def never(_pipe: PidPipe) -> int:
        await asyncio.Event().wait()
        return 0

    monkeypatch.setattr(PidPipe, "read", never)
    owner.supervisor.program = ("/bin/sh", "-c", "exit 3")
    await added(owner)

    assert await owner.tasks.start(owner.ref(), "e") > 0
    assert (await owner.tasks.wait(owner.ref(), "e")).status == 3


async def test_a_program_that_is_not_there(owner: Owner) -> None:
    """Runsc's own words come out of its log, and it counts as ended."""
    await added(owner)
    owner.supervisor.fails["exec"] = ["cannot do that"]

    with pytest.raises(RunscError, match="cannot do that"):
        await owner.tasks.start(owner.ref(), "e")

    assert (await owner.tasks.state(owner.ref(), "e")).state is TaskState.STOPPED
    await owner.tasks.delete(owner.ref(), "e")


async def test_the_end_of_the_sandbox_is_theirs(owner: Owner) -> None:
    """All that ran in it have been killed with it."""
    await added(owner)
    await owner.tasks.start(owner.ref(), "e")
    # The runner is not waited for: only the sandbox's exit is seen.
    task = owner.tasks._task(owner.ref())
    task.execs.get("e").detach()

    await owner.tasks.kill(owner.ref(), 9)
    await owner.tasks.wait(owner.ref())

    assert (await owner.tasks.wait(owner.ref(), "e")).status == 137


@pytest.mark.parametrize("numbered", (True, False))
async def test_a_start_that_is_cancelled(
    owner: Owner, numbered: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing runs on for a cancelled caller, in the container or outside."""
    owner.supervisor.numbered = numbered
    await added(owner)
    work = asyncio.ensure_future(owner.tasks.start(owner.ref(), "e"))
    if numbered:
        monkeypatch.setattr("shim.task.pidpipe.readable", lambda _fd: asyncio.Event().wait())
    async with asyncio.timeout(60):
        while execs_alive(owner) == 0:  # noqa: ASYNC110 - the fake's children
            await asyncio.sleep(0.005)
        await asyncio.sleep(0.02)

    work.cancel()
    with pytest.raises(asyncio.CancelledError):
        await work

    assert execs_alive(owner) == 0
    assert owner.commands == ["start", *(["kill"] if numbered else [])]
    assert (await owner.tasks.state(owner.ref(), "e")).state is TaskState.STOPPED


async def test_a_start_that_is_not_answered(tmp_path: Path) -> None:
    """A runsc that hangs is ended, and the error is one of ours."""
    async with owning(tmp_path) as owner:
        owner.config = msgspec.structs.replace(owner.config, timeouts=Timeouts(command=0.2))
        await owner.again()
        await owner.running()
        owner.supervisor.numbered = False
        await added(owner)

        with pytest.raises(DeadlineExceeded, match="did not start"):
            await owner.tasks.start(owner.ref(), "e")
        assert execs_alive(owner) == 0


async def test_the_next_owner_knows_them(owner: Owner) -> None:
    """Running ones are watched again, and ended ones have their exit."""
    await added(owner)
    pid = await owner.tasks.start(owner.ref(), "e")
    await added(owner, "later")

    tasks = await owner.again(killed=True)
    view = await tasks.state(owner.ref(), "e")
    assert (view.state, view.pid) == (TaskState.RUNNING, pid)
    await tasks.start(owner.ref(), "later")

    await tasks.kill(owner.ref(), 9, exec_id="e")
    assert (await asyncio.wait_for(tasks.wait(owner.ref(), "e"), 60)).status == 137
    assert procs.start_time(pid) is None


# -- a start under way ---------------------------------------------------------------------------


async def starting(owner: Owner, name: str = "e") -> asyncio.Task[int]:
    """Begin the start of a process whose runsc does not say its number."""
    owner.supervisor.numbered = False
    await added(owner, name)
    owner.supervisor.making.clear()
    work = asyncio.create_task(owner.tasks.start(owner.ref(), name))
    async with asyncio.timeout(60):
        await owner.supervisor.making.wait()
        while execs_alive(owner) == 0:  # noqa: ASYNC110 - the fake's children
            await asyncio.sleep(0.005)
    return work


async def test_an_owner_that_ends_while_one_starts(owner: Owner) -> None:
    """The next one knows that an exec has run, whose processes no restore brings back."""
    work = await starting(owner)
    record = records.load(owner.record_folder())
    work.cancel()
    await asyncio.wait({work})

    assert record is not None
    assert record.exec_ran


async def test_a_signal_to_one_whose_number_was_not_noted(owner: Owner) -> None:
    """It is for its `runsc exec`, which passes it on, and never for the container's init."""
    await added(owner)
    await owner.tasks.start(owner.ref(), "e")
    record = records.load(owner.record_folder())
    assert record is not None
    left = msgspec.structs.replace(record.execs["e"], guest_pid=0)
    tasks = await owner.again(killed=True)
    tasks._task(owner.ref()).execs.get("e").record = left

    await tasks.kill(owner.ref(), 15, exec_id="e")

    assert (await asyncio.wait_for(tasks.wait(owner.ref(), "e"), 60)).status == 143
    assert "kill" not in owner.commands
    assert (await tasks.state(owner.ref())).state is TaskState.RUNNING


async def test_one_that_is_being_started_is_not_deleted(owner: Owner) -> None:
    """Or its program would keep running, unknown to any record."""
    work = await starting(owner)

    with pytest.raises(IllegalState, match="is being started") as caught:
        await owner.tasks.delete(owner.ref(), "e")
    assert "kill" in caught.value.remedy
    assert execs_alive(owner) == 1
    with pytest.raises(IllegalState, match="is being started"):
        await owner.tasks.start(owner.ref(), "e")

    work.cancel()
    await asyncio.wait({work})
    await owner.tasks.delete(owner.ref(), "e")
    assert execs_alive(owner) == 0


async def test_one_that_is_being_started_can_be_killed(owner: Owner) -> None:
    """`runsc exec` and the program are ended, and Start says why it failed."""
    work = await starting(owner)

    await owner.tasks.kill(owner.ref(), 9, exec_id="e")

    with pytest.raises(IllegalState, match="was killed during its start"):
        await asyncio.wait_for(work, 60)
    assert execs_alive(owner) == 0
    assert (await owner.tasks.wait(owner.ref(), "e")).status == 137
    await owner.tasks.delete(owner.ref(), "e")


async def test_a_start_that_is_given_up_is_deleted_when_it_is_over(owner: Owner) -> None:
    """A Delete that comes while a cancelled Start is undone waits for that."""
    work = await starting(owner)
    work.cancel()
    await asyncio.sleep(0)  # one turn of the loop: the Start sees it
    await asyncio.sleep(0)
    assert not work.done()

    last = await owner.tasks.delete(owner.ref(), "e")

    assert last.exit is not None
    assert last.exit.status == 137
    assert execs_alive(owner) == 0


async def test_a_runsc_exec_that_does_not_exit(owner: Owner) -> None:
    """A Delete after its Start has failed does not wait for it without end."""
    await added(owner)
    await owner.tasks.start(owner.ref(), "e")
    one = owner.tasks._task(owner.ref()).execs.get("e")
    one.state, one._abandoned = TaskState.CREATED, True
    timeouts = msgspec.structs.replace(owner.config.timeouts, command=0.01)
    one._context = dataclasses.replace(
        one._context, config=msgspec.structs.replace(owner.config, timeouts=timeouts)
    )

    with pytest.raises(DeadlineExceeded, match="has not exited"):
        await asyncio.wait_for(owner.tasks.delete(owner.ref(), "e"), 60)


async def test_two_deletes_at_once(owner: Owner) -> None:
    """Both are answered."""
    await added(owner)

    first, second = await asyncio.gather(
        owner.tasks.delete(owner.ref(), "e"), owner.tasks.delete(owner.ref(), "e")
    )

    assert first.exit == second.exit


async def test_the_sandbox_ends_while_one_starts(owner: Owner) -> None:
    """Its Start fails, its exit and the task's come, and no runsc is left."""
    work = await starting(owner)

    await owner.tasks.kill(owner.ref(), 9)

    with pytest.raises(RunscError):
        await asyncio.wait_for(work, 60)
    assert (await asyncio.wait_for(owner.tasks.wait(owner.ref(), "e"), 60)).status == 137
    assert (await asyncio.wait_for(owner.tasks.wait(owner.ref()), 60)).status == 137
    assert execs_alive(owner) == -1


async def test_a_pause_waits_for_a_start(owner: Owner) -> None:
    """A process is started or refused, and never stopped in the middle."""
    work = await starting(owner)
    await added(owner, "late")
    pausing = asyncio.create_task(owner.tasks.pause(owner.ref()))
    await asyncio.sleep(0)

    with pytest.raises(Busy, match="being paused or checkpointed"):
        await owner.tasks.start(owner.ref(), "late")
    assert "pause" not in owner.commands
    work.cancel()
    await asyncio.wait_for(pausing, 60)

    assert owner.commands[-1] == "pause"
    assert (await owner.tasks.state(owner.ref())).state is TaskState.PAUSED


async def test_a_runsc_exec_that_is_killed_takes_its_program_along(owner: Owner) -> None:
    """The program, which would run on in the container, is killed before the exit is published."""
    program = await asyncio.create_subprocess_exec("/bin/sleep", "1000")
    owner.supervisor.numbered = False
    await added(owner)
    owner.supervisor.making.clear()
    work = asyncio.create_task(owner.tasks.start(owner.ref(), "e"))
    pipe = owner.record_folder() / "exec-e.pid"
    await asyncio.to_thread(wait_until, pipe.exists, "the pipe", 60)
    pipe.write_text(str(program.pid))
    assert await work == program.pid
    (runner,) = [child for child in owner.supervisor.children.values() if child.returncode is None][
        1:
    ]

    runner.kill()

    assert (await asyncio.wait_for(owner.tasks.wait(owner.ref(), "e"), 60)).status == 137
    assert await asyncio.wait_for(program.wait(), 60) == -9


# -- a full disk ---------------------------------------------------------------------------------


def fill(owner: Owner) -> None:
    """Let no record be written."""
    (owner.record_folder() / "task.json.tmp").mkdir()


async def test_added_on_a_full_disk(owner: Owner) -> None:
    """It is refused, and the id stays free."""
    fill(owner)
    with pytest.raises(CryoError):
        await added(owner)
    (owner.record_folder() / "task.json.tmp").rmdir()

    await added(owner)
    assert await owner.tasks.start(owner.ref(), "e") > 0


async def test_started_on_a_full_disk(owner: Owner) -> None:
    """What runs is not reported as failed, and can be deleted."""
    await added(owner)
    fill(owner)

    assert await owner.tasks.start(owner.ref(), "e") > 0
    await owner.tasks.kill(owner.ref(), 9, exec_id="e")
    await owner.tasks.wait(owner.ref(), "e")
    await owner.tasks.delete(owner.ref(), "e")

    with pytest.raises(NotFound):
        await owner.tasks.state(owner.ref(), "e")


async def test_nothing_is_kept_of_what_is_over(owner: Owner) -> None:
    """A container that is probed by execs all day holds no task, record or stream of them."""
    context = owner.tasks._owner.context()
    before = context.background.names, set(owner.supervisor.stored_fds)
    owner.supervisor.program = ("/bin/true",)

    for number in range(20):
        await added(owner, f"e{number}")
        await owner.tasks.start(owner.ref(), f"e{number}")
        await owner.tasks.wait(owner.ref(), f"e{number}")
        await owner.tasks.delete(owner.ref(), f"e{number}")
    await asyncio.sleep(0)

    assert (context.background.names, set(owner.supervisor.stored_fds)) == before
    assert owner.tasks._transactions._running == set()
    record = records.load(owner.record_folder())
    assert record is not None
    assert record.execs == {}
