"""Commands that the process supervisor starts: what is run, what is killed, what is reported."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path

import pytest

from shim.config import Config, Timeouts
from shim.errors import DeadlineExceeded, NotFound, RunscError
from shim.host import procs
from shim.runsc import supervised
from shim.runsc.argv import CreateArgs, ExecArgs, RestoreArgs
from shim.runsc.client import Runsc
from shim.runsc.open_streams import OpenStreams
from shim.runsc.supervised import Streams, Supervised
from shim.simgpu.waiting import wait_until
from tests.hung import hung_mount
from tests.unit.fakes_runsc import FakeSupervisor, capabilities

STREAMS = Streams(stdin=0, stdout=1, stderr=2)
Supervise = Callable[[Sequence[str]], FakeSupervisor]


def made(
    tmp_path: Path, supervisor: FakeSupervisor, timeouts: Timeouts | None = None
) -> Supervised:
    """Make a runsc whose processes go through the supervisor."""
    config = Config(timeouts=timeouts or Timeouts(create=10))
    return Runsc(config, capabilities(), tmp_path / "root", supervisor, OpenStreams()).supervised


@pytest.fixture
async def supervised_by() -> AsyncIterator[Supervise]:
    """Make supervisors that start a program; no child of theirs outlives the test."""
    made: list[FakeSupervisor] = []

    def make(program: Sequence[str]) -> FakeSupervisor:
        made.append(FakeSupervisor(program=list(program)))
        return made[-1]

    yield make
    for supervisor in made:
        await supervisor.end()


def create_args(tmp_path: Path) -> CreateArgs:
    """Ask for a container."""
    return CreateArgs(id="a", bundle="/b", pid_file=str(tmp_path / "pid"))


def writes_pid(tmp_path: Path) -> list[str]:
    """Behave as runsc does: leave a pid file."""
    return ["/bin/sh", "-c", f"printf 1 >{tmp_path}/pid"]


async def test_create_reports_the_sandbox(tmp_path: Path, supervised_by: Supervise) -> None:
    """The sandbox's pid comes from the pid file, with its start time; errors go to a log file."""
    supervisor = supervised_by(writes_pid(tmp_path))
    runsc = made(tmp_path, supervisor)
    received: list[tuple[int, int]] = []

    process = await runsc.create(
        create_args(tmp_path),
        STREAMS,
        gpu=True,
        log=tmp_path / "log",
        started=lambda pid, start: received.append((pid, start)),
    )

    assert (process.pid, process.start) == (1, procs.start_time(1))
    assert [pid for pid, _ in received] == list(supervisor.children)
    assert supervisor.spawned == [
        [
            "/usr/bin/runsc",
            f"--root={tmp_path}/root",
            "--nvproxy=true",
            f"--log={tmp_path}/log",
            "--log-format=json",
            "create",
            "--bundle=/b",
            f"--pid-file={tmp_path}/pid",
            "a+",
        ]
    ]


async def test_a_container_without_gpu_gets_no_nvproxy(
    tmp_path: Path, supervised_by: Supervise
) -> None:
    """The flag is for containers that have a GPU, and restore speaks the same way."""
    supervisor = supervised_by(writes_pid(tmp_path))
    runsc = made(tmp_path, supervisor)
    args = RestoreArgs(id="a", bundle="/b", pid_file=f"{tmp_path}/pid", image_path="/i")

    await runsc.create(create_args(tmp_path), STREAMS, gpu=False, log=tmp_path / "log")
    await runsc.restore(args, STREAMS, gpu=False, log=tmp_path / "log", timeout_s=10)

    assert not any("nvproxy" in word for argv in supervisor.spawned for word in argv)
    assert supervisor.spawned[1][4:] == ["restore", *args.args()]


async def test_a_failed_create_reads_the_log(tmp_path: Path, supervised_by: Supervise) -> None:
    """The sentry keeps the streams, so the reason stands in the log; an old log is no reason."""
    entry = json.dumps({"level": "error", "msg": "no such bundle"})
    (tmp_path / "log").write_text(json.dumps({"level": "error", "msg": "of yesterday"}))
    supervisor = supervised_by(["/bin/sh", "-c", f"echo '{entry}' >{tmp_path}/log; exit 128"])

    with pytest.raises(RunscError, match="runsc create failed: no such bundle"):
        await made(tmp_path, supervisor).create(
            create_args(tmp_path), STREAMS, gpu=False, log=tmp_path / "log"
        )


async def test_an_old_log_is_no_reason(tmp_path: Path, supervised_by: Supervise) -> None:
    """What an earlier run left in the log is not taken for this one's."""
    (tmp_path / "log").write_text(json.dumps({"level": "error", "msg": "of yesterday"}))

    with pytest.raises(RunscError, match="exit status 1 and no message"):
        await made(tmp_path, supervised_by(["/bin/false"])).create(
            create_args(tmp_path), STREAMS, gpu=False, log=tmp_path / "log"
        )


@pytest.mark.parametrize("content", (None, "", "x", "-"))
async def test_no_pid_file_is_a_failure(
    tmp_path: Path, content: str | None, supervised_by: Supervise
) -> None:
    """A runsc that succeeds without writing a pid has failed."""
    if content is not None:
        (tmp_path / "pid").write_text(content)

    with pytest.raises(RunscError, match="no pid file"):
        await made(tmp_path, supervised_by(["/bin/true"])).create(
            create_args(tmp_path), STREAMS, gpu=False, log=tmp_path / "log"
        )


async def test_a_create_that_hangs_is_ended(tmp_path: Path, supervised_by: Supervise) -> None:
    """The command is killed by its exact pid and waited for, and the message says how long."""
    supervisor = supervised_by(["/bin/sleep", "1000"])
    runsc = made(tmp_path, supervisor, Timeouts(create=0.1))

    with pytest.raises(DeadlineExceeded, match=r"runsc create did not end in 0\.1 s"):
        await runsc.create(create_args(tmp_path), STREAMS, gpu=False, log=tmp_path / "log")

    assert [child.returncode for child in supervisor.children.values()] == [-9]


async def test_a_sandbox_that_was_begun_ends_with_its_command(
    tmp_path: Path, supervised_by: Supervise
) -> None:
    """Its pid is not written down yet when the command is given up: it would keep running."""
    noted = tmp_path / "sandbox"
    begin = f"setsid sh -c 'echo $$ >{noted}.new; mv {noted}.new {noted}; exec sleep 1000' & wait"
    supervisor = supervised_by(["/bin/sh", "-c", begin])
    runsc = made(tmp_path, supervisor, Timeouts(create=60))
    work = asyncio.create_task(
        runsc.create(create_args(tmp_path), STREAMS, gpu=False, log=tmp_path / "log")
    )
    await asyncio.to_thread(wait_until, noted.exists, "the sandbox", 60)
    sandbox = int(noted.read_text())
    start = procs.start_time(sandbox)
    assert start is not None

    work.cancel()
    with pytest.raises(asyncio.CancelledError):
        await work

    await asyncio.wait_for(procs.wait_pidfd(sandbox, start), 10)
    assert not procs.is_alive(sandbox, start)


async def test_a_cancelled_create_is_ended(tmp_path: Path, supervised_by: Supervise) -> None:
    """A caller who leaves leaves no runsc behind."""
    supervisor = supervised_by(["/bin/sleep", "1000"])
    begun = asyncio.Event()
    work = asyncio.create_task(
        made(tmp_path, supervisor).create(
            create_args(tmp_path),
            STREAMS,
            gpu=False,
            log=tmp_path / "log",
            started=lambda *_: begun.set(),
        )
    )
    await asyncio.wait_for(begun.wait(), 60)

    work.cancel()
    with pytest.raises(asyncio.CancelledError):
        await work

    assert [child.returncode for child in supervisor.children.values()] == [-9]


async def test_a_create_that_does_not_die(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, supervised_by: Supervise
) -> None:
    """One that hangs in the kernel is waited for a bounded time, and named with its state."""
    monkeypatch.setattr(supervised, "KILLED_S", 0.2)
    with hung_mount(tmp_path / "hung") as mount:
        supervisor = supervised_by(["/bin/cat", f"{mount.path}/file"])
        work = asyncio.ensure_future(
            made(tmp_path, supervisor).create(
                create_args(tmp_path), STREAMS, gpu=False, log=tmp_path / "log"
            )
        )
        assert await asyncio.to_thread(mount.asked.wait, 60)
        work.cancel()

        with pytest.raises(DeadlineExceeded, match="does not exit: it is in state D") as caught:
            await work
        assert "unmounted by force" in caught.value.remedy


async def test_a_create_that_cannot_be_noted_is_ended(
    tmp_path: Path, supervised_by: Supervise
) -> None:
    """When the pid of runsc cannot be recorded, it is ended now: later it could not be found."""
    supervisor = supervised_by(["/bin/sleep", "1000"])

    def full(_pid: int, _start: int) -> None:
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        await made(tmp_path, supervisor).create(
            create_args(tmp_path), STREAMS, gpu=False, log=tmp_path / "log", started=full
        )

    assert [child.returncode for child in supervisor.children.values()] == [-9]


async def test_the_end_of_a_load_is_waited_for(tmp_path: Path, supervised_by: Supervise) -> None:
    """By a process that gets the streams, for a container that is there."""
    supervisor = supervised_by(["/bin/true"])
    runsc = made(tmp_path, supervisor)

    with pytest.raises(NotFound):
        await runsc.wait_restored("a", STREAMS)

    (tmp_path / "root").mkdir()
    (tmp_path / "root" / "a+_sandbox:a+.state").touch()
    process = await runsc.wait_restored("a", STREAMS)
    await supervisor.wait(process.pid, process.start)
    assert [argv[2:] for argv in supervisor.spawned] == [["wait", "--restore", "a+"]]


async def test_an_attached_exec_is_spawned(tmp_path: Path, supervised_by: Supervise) -> None:
    """The runner's identity comes back; it is asked for only in a container that is there."""
    supervisor = supervised_by(["/bin/true"])
    runsc = made(tmp_path, supervisor)
    args = ExecArgs(id="a", process="/f", internal_pid_file="/p")

    with pytest.raises(NotFound):
        await runsc.exec(args, STREAMS, tmp_path / "log")
    assert supervisor.spawned == []

    root = tmp_path / "root"
    root.mkdir()
    (root / "a+_sandbox:a+.state").touch()
    process = await runsc.exec(args, STREAMS, tmp_path / "log")
    await supervisor.wait(process.pid, process.start)
    assert process.pid in supervisor.children
    assert supervisor.spawned[0][4:] == ["exec", *args.args()]
