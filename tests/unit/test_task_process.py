"""A process of a task: its exit is published once, in order, and whatever else fails."""

from __future__ import annotations

import asyncio
import errno
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest

from shim import failpoints
from shim.config import Timeouts
from shim.errors import DeadlineExceeded, ResourceExhausted, Unavailable
from shim.host import procs
from shim.host.background import BackgroundTasks
from shim.host.process_id import ProcessId
from shim.host.procstat import Stat
from shim.host.supervisor.exits import Exited
from shim.model import Exit, Stdio
from shim.state import TaskState
from shim.task import process as processes
from shim.task.process import Process, exit_of
from tests.unit.fakes_tasks import Owner, owning

AT = datetime(2026, 11, 28, 12, 0, tzinfo=UTC)
SEVEN = Exit(status=7, at=AT)
PROGRAM = {"args": ["/bin/sh"], "cwd": "/", "env": ["A=b"]}
WAIT_S = 60


class Streams:
    """The streams of a process, which are closed when `gate` says so, or fail."""

    def __init__(self) -> None:
        self.gate = asyncio.Event()
        self.gate.set()
        self.fails: Exception | None = None
        self.closed = False

    async def close(self) -> None:
        """Close them."""
        await self.gate.wait()
        if self.fails is not None:
            raise self.fails
        self.closed = True


class Watched:
    """A process, and what it published."""

    def __init__(self) -> None:
        self.streams = Streams()
        self.published: list[Exit] = []
        self.background = BackgroundTasks()
        self.fails: Exception | None = None
        streams: Any = self.streams
        self.process = Process("process x", self.background, streams, self._publish)

    def _publish(self, exit_: Exit) -> None:
        self.published.append(exit_)
        if self.fails is not None:
            raise self.fails

    async def exit(self) -> Exit:
        """Wait for the exit as a caller does."""
        return await asyncio.wait_for(self.process.exit.get(), WAIT_S)


async def seven() -> Exit:
    """Publish an exit."""
    return SEVEN


async def test_the_exit_comes_after_the_start() -> None:
    """However soon a process exits, its start is published first."""
    subject = Watched()
    async with subject.process.starting():
        subject.process.watch(seven)
        assert await asyncio.wait_for(subject.process.ended.get(), WAIT_S) == SEVEN
        assert subject.published == []

    assert await subject.exit() == SEVEN
    assert subject.published == [SEVEN]


async def test_the_exit_comes_after_the_output() -> None:
    """Once the exit is published, all output of the process was passed on."""
    subject = Watched()
    subject.streams.gate.clear()
    subject.process.watch(seven)
    await asyncio.wait_for(subject.process.ended.get(), WAIT_S)
    assert subject.published == []

    subject.streams.gate.set()

    assert await subject.exit() == SEVEN
    assert subject.streams.closed


async def test_output_that_no_process_takes_does_not_hold_up_the_exit(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It is closed in the background when the exit has been published."""
    monkeypatch.setattr(processes, "_CLOSE_S", 0.01)
    subject = Watched()
    subject.streams.gate.clear()
    subject.process.watch(seven)

    assert await subject.exit() == SEVEN
    assert not subject.streams.closed
    subject.streams.gate.set()
    await subject.background.start(asyncio.sleep(0), name="a turn of the loop")
    await subject.background.aclose()


@pytest.mark.parametrize("error", (OSError(errno.EIO, "i/o"), Unavailable("no"), KeyError("bug")))
async def test_the_exit_is_published_whatever_fails(error: Exception) -> None:
    """A step of the end that fails or crashes, or an event that cannot be sent."""
    subject = Watched()
    subject.streams.fails = subject.fails = error

    async def before(_: Exit) -> None:
        raise error

    subject.process.watch(seven, before)

    assert await subject.exit() == SEVEN
    assert subject.published == [SEVEN]


async def test_a_watcher_that_crashes_ends_the_wait() -> None:
    """No caller waits for an exit that is not watched any more."""
    subject = Watched()

    async def crash() -> Exit:
        message = "a bug"
        raise ZeroDivisionError(message)

    subject.process.watch(crash)

    assert (await subject.exit()).status == 255
    assert subject.published == [subject.process.exit.value]


async def test_a_crash_marks_the_task(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its listing says that the exit is unknown, and why."""
    gate = asyncio.Event()

    async def crash(*_: object) -> Exit:
        await gate.wait()
        message = "a bug"
        raise ZeroDivisionError(message)

    monkeypatch.setattr("shim.task.root_container.exit_of", crash)
    async with owning(tmp_path) as owner:
        await owner.running()
        gate.set()

        assert (await asyncio.wait_for(owner.tasks.wait(owner.ref()), WAIT_S)).status == 255
        (view,) = await owner.tasks.list("ns")
        assert "ZeroDivisionError" in view.warning


async def test_the_exit_is_published_once() -> None:
    """Two who notice the end publish the exit of the first."""
    subject = Watched()

    await asyncio.gather(subject.process.end(SEVEN), subject.process.end(Exit(status=137, at=AT)))

    assert subject.published == [SEVEN]
    assert subject.process.exit.value == SEVEN


async def test_an_owner_that_ends_in_the_middle_publishes_the_exit() -> None:
    """The next owner takes a noted exit for published."""
    subject = Watched()
    subject.streams.gate.clear()
    subject.process.watch(seven)
    await asyncio.wait_for(subject.process.ended.get(), WAIT_S)

    subject.process.detach()
    await subject.background.aclose()

    assert subject.published == [SEVEN]


# -- exits that are hard to learn ----------------------------------------------------------------


class SupervisorClient:
    """A supervisor whose answer is an error."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    async def wait(self, pid: int, start: int) -> Exited:
        """Fail."""
        raise self.error


@pytest.mark.parametrize("error", (Unavailable("the supervisor is gone"), KeyError("bug")))
async def test_without_a_supervisor_the_status_is_unknown(error: Exception) -> None:
    """That the process has exited is learnt all the same, and not before it has."""
    child = await asyncio.create_subprocess_exec("/bin/sleep", "1000")
    process = ProcessId(pid=child.pid, start=procs.start_time(child.pid) or 0)
    supervisor: Any = SupervisorClient(error)
    waiting = asyncio.create_task(exit_of(supervisor, process))
    await asyncio.sleep(0)
    assert not waiting.done()

    child.kill()

    assert (await asyncio.wait_for(waiting, WAIT_S)).status == 255
    await child.wait()


async def test_a_process_that_cannot_be_watched_is_asked_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With no descriptor left there is no pidfd: a live process is not given an exit for that."""
    tries: list[int] = []

    async def wait(pid: int, start: int | None = None) -> None:
        tries.append(pid)
        if len(tries) == 1:
            message = "too many open files"
            raise ResourceExhausted(message)

    monkeypatch.setattr(procs, "wait_pidfd", wait)
    monkeypatch.setattr(processes, "_RETRY_S", 0)
    supervisor: Any = SupervisorClient(Unavailable("gone"))

    assert (await exit_of(supervisor, ProcessId(pid=5, start=6))).status == 255
    assert tries == [5, 5]


async def test_what_sigkill_does_not_end_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """The error has the pid and the state, says when it ends, and the process is watched on."""
    subject = Watched()
    monkeypatch.setattr(
        "shim.host.procstat.read", lambda _: Stat(state="D", ppid=1, start=6, code=0)
    )

    with pytest.raises(DeadlineExceeded, match=r"process 5 .* uninterruptible sleep") as caught:
        await subject.process.killed(ProcessId(pid=5, start=6), 0.01)
    assert "device or filesystem" in caught.value.remedy
    subject.process.watch(seven)

    assert await subject.process.killed(ProcessId(pid=5, start=6), WAIT_S) == SEVEN


# -- in a task -----------------------------------------------------------------------------------


async def started(owner: Owner, *names: str) -> None:
    """Add processes to task `a`, and start them."""
    for name in names:
        await owner.tasks.exec(owner.ref(), name, PROGRAM, Stdio())
        await owner.tasks.start(owner.ref(), name)


async def test_an_exec_is_deleted_while_the_container_dies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The exit of the task comes, and after those of its execs, though one drains slowly."""
    async with owning(tmp_path) as owner:
        pid = await owner.running()
        await started(owner, "e1", "e2", "e3")
        execs = owner.tasks._task(owner.ref()).execs
        plain, gate = execs.get("e1").streams.close, asyncio.Event()

        async def slow() -> None:
            await gate.wait()
            await plain()

        monkeypatch.setattr(execs.get("e1").streams, "close", slow)
        owner.kill_sandbox(pid)
        for child in owner.supervisor.children.values():
            if child.returncode is None and child.pid != pid:
                child.kill()
        await asyncio.wait_for(owner.tasks.wait(owner.ref(), "e2"), WAIT_S)
        await owner.tasks.delete(owner.ref(), "e2")
        gate.set()

        ended = await asyncio.wait_for(owner.tasks.wait(owner.ref()), WAIT_S)

        assert ended.status == 137
        assert (await owner.tasks.state(owner.ref())).state is TaskState.STOPPED
        exits = [event for event in owner.events if event.topic == "/tasks/exit"]
        assert sorted(str(event.fields["id"]) for event in exits) == ["a", "e1", "e2", "e3"]
        assert exits[-1].fields["id"] == "a"


async def test_the_outputs_of_execs_are_taken_side_by_side(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Slow readers of several terminals delay the exit of the task as one of them does."""
    async with owning(tmp_path) as owner:
        pid = await owner.running()
        await started(owner, "e1", "e2")
        execs = owner.tasks._task(owner.ref()).execs
        closing = {name: asyncio.Event() for name in execs.ids}

        def slow(name: str, other: str) -> None:
            plain = execs.get(name).streams.close

            async def close() -> None:
                closing[name].set()
                await closing[other].wait()
                await plain()

            monkeypatch.setattr(execs.get(name).streams, "close", close)

        slow("e1", "e2")
        slow("e2", "e1")
        for name in execs.ids:  # only the sandbox's end is seen
            execs.get(name).detach()
        owner.kill_sandbox(pid)

        assert (await asyncio.wait_for(owner.tasks.wait(owner.ref()), 10)).status == 137


async def test_a_sandbox_that_sigkill_does_not_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Delete names it, and can be called again once it has exited."""
    async with owning(tmp_path) as owner:
        owner.config = msgspec.structs.replace(owner.config, timeouts=Timeouts(command=0.1))
        await owner.again()
        pid = await owner.tasks.create(owner.request())
        with monkeypatch.context() as patched:
            patched.setattr("shim.host.procs.kill", lambda *_: True)
            with pytest.raises(DeadlineExceeded, match=f"process {pid} was sent SIGKILL"):
                await owner.tasks.delete(owner.ref())
        assert (await owner.tasks.state(owner.ref())).state is TaskState.CREATED

        owner.kill_sandbox(pid)
        assert (await asyncio.wait_for(owner.tasks.wait(owner.ref()), WAIT_S)).status == 137
        await owner.tasks.delete(owner.ref())


async def test_a_full_disk_at_the_start(tmp_path: Path) -> None:
    """Start fails, and the task can be started later, or killed, or deleted."""

    def full(point: str) -> None:
        if point == "record.save:before":
            raise OSError(errno.ENOSPC, "No space left on device")

    async with owning(tmp_path) as owner:
        await owner.tasks.create(owner.request())
        failpoints.arm(full)
        try:
            with pytest.raises(ResourceExhausted):
                await owner.tasks.start(owner.ref())
        finally:
            failpoints.arm(None)

        await asyncio.wait_for(owner.tasks.kill(owner.ref(), 9), WAIT_S)
        last = await asyncio.wait_for(owner.tasks.delete(owner.ref()), WAIT_S)

        assert last.exit is not None
        assert last.exit.status == 137


async def test_a_wait_for_what_is_removed_ends(tmp_path: Path) -> None:
    """A process that was added and never started has no exit; its task's removal ends the wait."""
    async with owning(tmp_path) as owner:
        await owner.running()
        await owner.tasks.exec(owner.ref(), "e", PROGRAM, Stdio())
        waiting = asyncio.create_task(owner.tasks.wait(owner.ref(), "e"))
        await asyncio.sleep(0)

        await owner.tasks.kill(owner.ref(), 9)
        await owner.tasks.wait(owner.ref())
        await owner.tasks.delete(owner.ref())

        assert (await asyncio.wait_for(waiting, WAIT_S)).status == 255
