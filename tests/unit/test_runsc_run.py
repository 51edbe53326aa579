"""The spawner: deadlines, cancellation, kept pipes, bounded output. Real processes."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from shim.errors import DeadlineExceeded, InvalidArgument, Unavailable
from shim.host import procs
from shim.runsc import run as running
from shim.runsc.collector import STDERR_LIMIT
from shim.runsc.run import Completed, is_child, run
from tests.hung import hung_mount
from tests.unit.helpers_descriptors import descriptors

FOREVER = "while :; do sleep 1000; done"


def sh(text: str) -> list[str]:
    """Make the command line of a shell script."""
    return ["/bin/sh", "-c", text]


def ended(pid: int) -> bool:
    """Return whether there is no such process, not even a zombie."""
    return procs.start_time(pid) is None


async def until_written(path: Path) -> int:
    """Wait for a pid that a child writes; the deadline is for a broken test."""
    async with asyncio.timeout(60):
        while not path.exists() or not path.read_text().endswith("\n"):  # noqa: ASYNC110 - a child's
            await asyncio.sleep(0.005)
    return int(path.read_text())


def open_fds() -> int:
    """Count our own descriptors."""
    return len(descriptors())


async def test_status_and_output() -> None:
    """The answer is the exit status and both streams, kept apart."""
    done = await run(sh("echo out; echo err >&2; exit 7"), timeout_s=10)

    assert (done.status, done.stdout, done.stderr) == (7, b"out\n", b"err\n")


async def test_an_end_by_signal_is_a_negative_status() -> None:
    """A command that was killed did not succeed."""
    done = await run(sh("kill -9 $$"), timeout_s=10)

    assert done.status == -signal.SIGKILL


async def test_environment_and_folder(tmp_path: Path) -> None:
    """What is given is what the command sees, and nothing of ours."""
    done = await run(sh("pwd; echo $A$HOME"), timeout_s=10, env={"A": "b"}, cwd=str(tmp_path))

    assert done.stdout.decode() == f"{tmp_path}\nb\n"


async def test_nothing_is_read_from_our_stdin() -> None:
    """A command that asks for input gets its end."""
    done = await run(["/bin/cat"], timeout_s=10)

    assert done.status == 0
    assert done.stdout == b""


async def test_the_deadline_kills_the_group_and_reaps(tmp_path: Path) -> None:
    """A command that hangs is gone with its children, and leaves no zombie."""
    mine, childs = tmp_path / "mine", tmp_path / "child"
    text = f"echo $$ >{mine}; sleep 1000 & echo $! >{childs}; wait"

    with pytest.raises(DeadlineExceeded, match=r"sh did not end in 0\.3 s"):
        await run(sh(text), timeout_s=0.3)

    assert ended(int(mine.read_text()))
    child = int(childs.read_text())
    await asyncio.wait_for(procs.wait_pidfd(child), 60)
    assert not procs.is_alive(child, procs.start_time(child) or 0)


async def test_cancellation_kills_and_reaps(tmp_path: Path) -> None:
    """Nothing runs on for a cancelled caller."""
    pid_file = tmp_path / "pid"
    work = asyncio.create_task(run(sh(f"echo $$ >{pid_file}; {FOREVER}"), timeout_s=60))
    pid = await until_written(pid_file)

    work.cancel()
    with pytest.raises(asyncio.CancelledError):
        await work

    assert ended(pid)


async def test_being_cancelled_twice_reaps_as_well(tmp_path: Path) -> None:
    """A second cancellation, while the first one waits for the end, leaves no zombie."""
    pid_file = tmp_path / "pid"
    work = asyncio.create_task(run(sh(f"echo $$ >{pid_file}; {FOREVER}"), timeout_s=60))
    pid = await until_written(pid_file)

    work.cancel()
    await asyncio.sleep(0)
    work.cancel()
    with pytest.raises(asyncio.CancelledError):
        await work

    assert ended(pid)


async def test_a_grandchild_that_keeps_the_pipe_is_not_waited_for(tmp_path: Path) -> None:
    """The sentry keeps the streams of runsc forever: a command ends when its process ends."""
    kept = tmp_path / "kept"
    began = time.monotonic()

    done = await run(sh(f"echo said; sleep 1000 & echo $! >{kept}"), timeout_s=30)

    pid = int(kept.read_text())
    try:
        assert time.monotonic() - began < 10
        assert done.stdout == b"said\n"
        assert procs.is_alive(pid, procs.start_time(pid) or 0)
    finally:
        os.kill(pid, signal.SIGKILL)


async def test_output_is_bounded() -> None:
    """More than the limit is read, so that the command can end, and dropped."""
    text = "head -c 3000000 /dev/zero; head -c 1000000 /dev/zero >&2"

    done = await run(sh(text), timeout_s=20, stdout_limit=1000)

    assert done.status == 0
    assert len(done.stdout) == 1000
    assert len(done.stderr) == STDERR_LIMIT


async def test_a_writer_that_never_stops_is_ended() -> None:
    """Endless output is neither kept nor waited for."""
    with pytest.raises(DeadlineExceeded):
        await run(sh("while :; do echo yes; done"), timeout_s=0.2, stdout_limit=10)


async def test_a_grandchild_that_never_stops_writing_is_left_behind(tmp_path: Path) -> None:
    """Taking what is there ends, even when there is always more."""
    kept = tmp_path / "kept"
    text = f"yes & echo $! >{kept}; sleep 0.05"

    done = await asyncio.wait_for(run(sh(text), timeout_s=20, stdout_limit=5000), 60)

    assert len(done.stdout) <= 5000
    os.kill(int(kept.read_text()), signal.SIGKILL)


async def test_no_descriptor_is_left_over(tmp_path: Path) -> None:
    """However a command ends, its descriptors are closed."""
    await run(sh("true"), timeout_s=10)
    before = open_fds()

    for _ in range(5):
        await run(sh("echo x"), timeout_s=10)
        with pytest.raises(DeadlineExceeded):
            await run(sh(FOREVER), timeout_s=0.01)
        with pytest.raises(Unavailable):
            await run(["/nonexistent/runsc"], timeout_s=1)
        work = asyncio.create_task(run(sh(FOREVER), timeout_s=60))
        await asyncio.sleep(0)
        work.cancel()
        with pytest.raises(asyncio.CancelledError):
            await work

    assert open_fds() == before


async def test_a_program_that_is_not_there() -> None:
    """The name and the way out are said."""
    with pytest.raises(Unavailable, match="/nonexistent/runsc: not found") as caught:
        await run(["/nonexistent/runsc", "x"], timeout_s=1)
    assert "config.toml" in caught.value.remedy


@pytest.mark.parametrize("argv", (["/etc/passwd"], ["/"], ["/bin/true", "a\0b"]))
async def test_what_cannot_be_started(argv: list[str]) -> None:
    """No exec permission, a folder, a NUL: each is an error of ours."""
    with pytest.raises(InvalidArgument):
        await run(argv, timeout_s=1)


async def test_the_pid_is_passed_on() -> None:
    """Pid and start time identify the child; they are passed on before it exits."""
    received: list[tuple[int, int]] = []

    done = await run(
        sh("echo $$"), timeout_s=10, started=lambda pid, start: received.append((pid, start))
    )

    assert [pid for pid, _ in received] == [int(done.stdout)]
    assert received[0][1] > 0


async def test_a_child_that_cannot_be_noted_does_not_run_on() -> None:
    """When `started` fails, the child would be unknown: it is ended first."""
    pids: list[int] = []

    def full(pid: int, _start: int) -> None:
        pids.append(pid)
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        await run(sh(FOREVER), timeout_s=60, started=full)
    assert ended(pids[0])


async def test_a_command_gets_little_of_our_surroundings(monkeypatch: pytest.MonkeyPatch) -> None:
    """No secret of our environment, and the usual umask although ours is private."""
    monkeypatch.setenv("MY_SECRET", "tok3n")
    before = os.umask(0o077)
    try:
        done = await run(sh("echo $PATH; echo $MY_SECRET; umask"), timeout_s=10)
    finally:
        os.umask(before)

    assert done.stdout.decode().split("\n")[:3] == [os.environ["PATH"], "", "0022"]


@contextlib.asynccontextmanager
async def hung_command(
    folder: Path, timeout_s: float
) -> AsyncIterator[tuple[asyncio.Task[Completed], int]]:
    """Give a run of a command in uninterruptible sleep, and its pid; afterwards it is reaped."""
    pid_file, path = folder / "pid", folder / "hung"
    with hung_mount(path) as mount:
        text = f"echo $$ >{pid_file}; exec cat {path}/file"
        work = asyncio.create_task(run(sh(text), timeout_s=timeout_s))
        pid = await until_written(pid_file)
        assert await asyncio.to_thread(mount.asked.wait, 60)
        yield work, pid
    async with asyncio.timeout(60):
        while is_child(pid):  # noqa: ASYNC110 - the end of a process
            await asyncio.sleep(0.005)
    assert ended(pid)


async def test_what_does_not_die_is_named_and_collected_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A command in uninterruptible sleep holds its caller for a bounded time, and is no zombie."""
    monkeypatch.setattr(running, "KILLED_S", 0.2)
    async with hung_command(tmp_path, timeout_s=3) as (work, pid):
        with pytest.raises(DeadlineExceeded) as caught:
            await work

        assert f"its process {pid} was killed and does not exit: it is in state D" in str(
            caught.value
        )
        assert "a device or a filesystem does not answer" in caught.value.message
        assert "unmounted by force" in caught.value.remedy
        assert is_child(pid)


async def test_a_caller_who_leaves_what_does_not_die(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A cancelled caller is held for a bounded time as well, and is cancelled."""
    monkeypatch.setattr(running, "KILLED_S", 0.2)
    async with hung_command(tmp_path, timeout_s=60) as (work, pid):
        work.cancel()

        with pytest.raises(asyncio.CancelledError):
            await work
        assert is_child(pid)


async def test_a_stopped_command_is_ended(tmp_path: Path) -> None:
    """SIGSTOP does not keep a command from being killed at its deadline."""
    pid_file = tmp_path / "pid"

    with pytest.raises(DeadlineExceeded, match="sh did not end"):
        await run(sh(f"echo $$ >{pid_file}; kill -STOP $$"), timeout_s=0.3)

    assert ended(int(pid_file.read_text()))
