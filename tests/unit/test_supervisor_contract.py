"""What every supervisor does, the process of its own and the one inside a shim: one contract."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import json
import os
import resource
import signal
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from shim.errors import InvalidArgument, NotFound, Unavailable
from shim.host import procs
from shim.host.exit_status import UNKNOWN_STATUS
from shim.host.process_id import ProcessId
from shim.host.supervisor.client import SupervisorClient
from shim.host.supervisor.exits import Exited
from shim.host.supervisor.local import LocalSupervisor
from shim.host.supervisor.protocol import ProcessSupervisor
from tests.unit.helpers_supervisor import (
    Start,
    assert_as_known_as_can_be,
    children,
    dev_null,
    end_supervisor,
    ended,
    names,
    starting,
)

_PR_SET_CHILD_SUBREAPER = 36


@contextlib.asynccontextmanager
async def a_process(folder: Path) -> AsyncIterator[SupervisorClient]:
    """Give a supervisor that is a process of its own, and end it with its children."""
    supervisor = await SupervisorClient.connect(folder)
    try:
        yield supervisor
    finally:
        await supervisor.close()
        await asyncio.to_thread(end_supervisor, folder)


@contextlib.asynccontextmanager
async def a_shims(_folder: Path) -> AsyncIterator[LocalSupervisor]:
    """Give a shim's supervisor, which is this very process, and end what was started."""
    before = set(children(os.getpid()))
    supervisor = LocalSupervisor(before.__contains__)
    try:
        yield supervisor
    finally:
        for pid in set(children(os.getpid())) - before:
            start = procs.start_time(pid) or 0
            procs.kill_tree(pid, start)
            await supervisor.wait(pid, start)
        await supervisor.close()
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)


@pytest.fixture(params=(a_process, a_shims), ids=("process", "shim"))
async def supervisor(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[ProcessSupervisor]:
    """Give each kind of supervisor."""
    monkeypatch.chdir("/")  # where a shim is
    async with request.param(tmp_path / "state") as made:
        yield made


@pytest.fixture
def parent(supervisor: ProcessSupervisor) -> int:
    """Give the process whose children the supervisor's are."""
    return supervisor.pid if isinstance(supervisor, SupervisorClient) else os.getpid()


@pytest.fixture
def null() -> Iterator[int]:
    """Give /dev/null."""
    with dev_null() as fd:
        yield fd


@pytest.fixture
def start(supervisor: ProcessSupervisor, null: int) -> Start:
    """Start a program with null streams."""
    return starting(supervisor, null)


@pytest.mark.parametrize(
    ("script", "status"), (("exit 7", 7), ("kill -9 $$", 137), ("kill -15 $$", 143), ("true", 0))
)
async def test_exit_status_is_shell_style(
    supervisor: ProcessSupervisor, start: Start, script: str, status: int
) -> None:
    """A code is itself and a signal is 128 and its number."""
    found = await ended(supervisor, await start("sh", "-c", script))

    assert (found.status, found.known) == (status, True)


async def test_wait_after_the_end_and_again(supervisor: ProcessSupervisor, start: Start) -> None:
    """The exit is returned to later callers, as often as asked."""
    first = await start("sh", "-c", "exit 3")
    second = await start("sh", "-c", "exit 4")

    assert (await ended(supervisor, second)).status == 4
    assert (await ended(supervisor, first)).status == 3
    assert (await ended(supervisor, first)).status == 3


async def test_many_wait_for_one_and_some_give_up(
    supervisor: ProcessSupervisor, start: Start
) -> None:
    """Concurrent waits share an end; a cancelled one takes nothing from the others."""
    process = await start("sleep", "60")
    waits = [asyncio.create_task(ended(supervisor, process)) for _ in range(10)]
    await asyncio.sleep(0)
    waits[0].cancel()
    procs.kill(*process, signal.SIGTERM)

    results = await asyncio.gather(*waits, return_exceptions=True)

    assert isinstance(results[0], asyncio.CancelledError)
    assert {each.status for each in results[1:] if isinstance(each, Exited)} == {143}


async def spawn_orphan(start: Start, tmp_path: Path, then: str) -> ProcessId:
    """Start a process whose parent ends at once, and name it."""
    note = tmp_path / "orphan"
    os.mkfifo(note)
    fd = os.open(note, os.O_RDWR)
    try:
        script = f'trap "exit 9" USR1; echo $$ > "$1"; {then}'
        await start("sh", "-c", 'setsid sh -c "$2" sh "$1" & exit 0', "sh", str(note), script)
        loop = asyncio.get_running_loop()
        line = await asyncio.wait_for(loop.run_in_executor(None, os.read, fd, 100), 60)
    finally:
        os.close(fd)
    pid = int(line)
    return ProcessId(pid, procs.start_time(pid) or 0)


async def test_orphan_is_adopted_and_its_end_told(
    supervisor: ProcessSupervisor, start: Start, tmp_path: Path
) -> None:
    """A process that was forked twice becomes the supervisor's, which reports how it ended."""
    process = await spawn_orphan(start, tmp_path, "sleep 60 & wait")
    waiting = asyncio.create_task(ended(supervisor, process))
    await asyncio.sleep(0)
    procs.kill(*process, signal.SIGUSR1)

    assert (await waiting).status == 9


async def test_orphan_that_ended_before_anybody_asked(
    supervisor: ProcessSupervisor, start: Start, tmp_path: Path
) -> None:
    """The end of an adopted process is remembered with no one waiting."""
    process = await spawn_orphan(start, tmp_path, "exec sleep 60")
    procs.kill(*process, signal.SIGTERM)
    await procs.wait_pidfd(*process)

    found = await ended(supervisor, process)

    assert (found.status, found.known) == (143, True)


async def test_grandchild_whose_parent_lives(
    supervisor: ProcessSupervisor, start: Start, tmp_path: Path
) -> None:
    """A process that the supervisor cannot reap is watched; its exit is reported, known or not."""
    note = tmp_path / "pid"
    os.mkfifo(note)
    script = f"sleep 60 & echo $! > {note}; wait; exec sleep 60"
    parent = await start("sh", "-c", script)
    line = await asyncio.to_thread(note.read_text)
    pid = int(line)
    process = ProcessId(pid, procs.start_time(pid) or 0)
    waiting = asyncio.create_task(ended(supervisor, process))
    await asyncio.sleep(0)  # the question goes out
    await supervisor.fetch("nothing")  # answered in order: by now the supervisor watches
    os.kill(pid, signal.SIGTERM)

    found = await waiting

    assert_as_known_as_can_be(found)
    assert procs.is_alive(*parent)


_FIRST_THREAD_ENDS = """
import ctypes, os, platform, threading
def last():
    os.read(0, 1)
    os._exit(9)
threading.Thread(target=last).start()
exit_thread = {"x86_64": 60, "aarch64": 93}[platform.machine()]
ctypes.CDLL(None).syscall(exit_thread, 0)
"""


async def test_process_whose_first_thread_has_ended(
    supervisor: ProcessSupervisor, start: Start
) -> None:
    """It looks like a zombie while its other threads run; it has exited when they have."""
    reader, writer = os.pipe2(os.O_CLOEXEC)
    process = await start(sys.executable, "-c", _FIRST_THREAD_ENDS, stdin=reader)
    os.close(reader)
    # Should the supervisor wait for it, and nothing else go on, this ends it.
    late = threading.Timer(30, os.close, (writer,))
    late.start()
    async with asyncio.timeout(60):
        while procs.is_alive(*process):  # noqa: ASYNC110 - seen only in /proc
            await asyncio.sleep(0.01)
    waiting = asyncio.create_task(ended(supervisor, process))
    await start("true")
    await asyncio.sleep(0)
    assert not waiting.done()
    assert late.is_alive()

    late.cancel()
    os.close(writer)

    assert (await waiting).status == 9


async def test_process_that_never_was(supervisor: ProcessSupervisor) -> None:
    """The exit of an unknown process is unknown."""
    found = await ended(supervisor, ProcessId(os.getpid(), 1))

    assert (found.status, found.known) == (UNKNOWN_STATUS, False)


async def test_program_gets_its_arguments(supervisor: ProcessSupervisor, start: Start) -> None:
    """Streams, folder, environment, session and extra descriptors arrive, and nothing else."""
    reader, writer = os.pipe()
    extra = os.memfd_create("extra")
    os.write(extra, b"hello")
    os.lseek(extra, 0, os.SEEK_SET)
    script = (
        "import os, sys, json, signal, resource\n"
        "print(json.dumps({'fds': sorted(int(f) for f in os.listdir('/proc/self/fd'))[:-1],"
        " 'cwd': os.getcwd(), 'env': os.environ.get('A'), 'three': os.read(3, 9).decode(),"
        " 'sid': os.getsid(0) == os.getpid(), 'blocked': len(signal.pthread_sigmask(0, [])),"
        " 'ignored': [l.split()[1] for l in open('/proc/self/status') if 'SigIgn' in l],"
        " 'files': resource.getrlimit(resource.RLIMIT_NOFILE)}))\n"
    )
    process = await start(
        sys.executable, "-c", script,
        stdout=writer, env={"A": "b c=d"}, pass_fds=[extra, reader],
    )  # fmt: skip
    os.close(writer)
    os.close(extra)
    with os.fdopen(reader) as output:
        said = json.loads(await asyncio.to_thread(output.read))

    assert (await ended(supervisor, process)).status == 0
    assert said["fds"] == [0, 1, 2, 3, 4]
    assert (said["cwd"], said["env"], said["three"]) == ("/", "b c=d", "hello")
    assert (said["sid"], said["blocked"]) == (True, 0)
    # The child is Python, which ignores two itself; of 32 and 33 only the C library may dispose.
    allowed = {signal.SIGPIPE, signal.SIGXFSZ, 32, 33}
    assert int(said["ignored"][0], 16) & ~sum(1 << (number - 1) for number in allowed) == 0
    assert tuple(said["files"]) == resource.getrlimit(resource.RLIMIT_NOFILE)


async def test_program_does_not_ignore_sigpipe(supervisor: ProcessSupervisor, start: Start) -> None:
    """A program dies of a broken pipe as it would under a shell."""
    reader, writer = os.pipe()
    os.close(reader)
    process = await start("sh", "-c", "echo x; echo x", stdout=writer)
    os.close(writer)

    assert (await ended(supervisor, process)).status == 128 + signal.SIGPIPE


@pytest.mark.parametrize(
    ("argv", "more", "error"),
    (
        (["/no/such/program"], {}, NotFound),
        (["no-such-program"], {}, NotFound),
        (["/"], {}, Exception),
        (["true", "a\0b"], {}, InvalidArgument),
        (["true"], {"env": {"A=B": "c"}}, InvalidArgument),
        (["true"], {"env": {"A": "\ud800"}}, InvalidArgument),
        (["true", "x" * 200_000], {}, InvalidArgument),
    ),
)
async def test_program_that_cannot_start(
    supervisor: ProcessSupervisor,
    start: Start,
    parent: int,
    argv: list[str],
    more: dict[str, Any],
    error: type[Exception],
) -> None:
    """What cannot be started is a typed error; no child is left and the supervisor goes on."""
    before = children(parent)
    with pytest.raises(error, match=r"cannot|too large"):
        await start(*argv, **more)

    assert children(parent) == before
    assert (await ended(supervisor, await start("true"))).status == 0


async def test_two_hundred_quick_children(
    supervisor: ProcessSupervisor, start: Start, parent: int
) -> None:
    """No zombie and no descriptor is left of many children that end at once."""
    fds = f"/proc/{parent}/fd"
    others = children(parent)
    before = (len(names(fds)), len(names("/proc/self/fd")))
    processes = [await start("true") for _ in range(200)]

    results = await asyncio.gather(*(ended(supervisor, each) for each in processes))

    assert {each.status for each in results} == {0}
    assert children(parent) == others
    # What others had left open before may have been closed since.
    assert len(names(fds)) <= before[0]
    assert len(names("/proc/self/fd")) <= before[1]


async def test_held_stdin_is_what_keeps_it_open(
    supervisor: ProcessSupervisor, start: Start
) -> None:
    """A reader sees the end only when the held write end is dropped."""
    stdin, held = os.pipe()
    process = await start("cat", stdin=stdin)
    await supervisor.hold("a", held)
    os.close(held)
    os.close(stdin)
    waiting = asyncio.create_task(ended(supervisor, process))
    await asyncio.sleep(0.05)
    assert not waiting.done()

    await supervisor.drop("a")

    assert (await waiting).status == 0
    assert await supervisor.fetch("a") is None


async def test_hold_replaces(supervisor: ProcessSupervisor, null: int, parent: int) -> None:
    """A name holds one descriptor, until it is dropped."""
    fds = f"/proc/{parent}/fd"
    before = len(names(fds))
    for _ in range(5):
        await supervisor.hold("a", null)

    assert len(names(fds)) == before + 1
    await supervisor.drop("a")
    await supervisor.drop("a")
    assert len(names(fds)) == before


async def output_of(supervisor: ProcessSupervisor, start: Start, *argv: str) -> str:
    """Run a program to its end and return what it wrote."""
    reader, writer = os.pipe()
    process = await start(*argv, stdout=writer)
    os.close(writer)
    with os.fdopen(reader) as output:
        text = await asyncio.to_thread(output.read)
    assert (await ended(supervisor, process)).status == 0
    return text


async def test_program_begins_with_default_signals(
    supervisor: ProcessSupervisor, start: Start
) -> None:
    """No signal is ignored or blocked in a program, whatever its parent ignores and blocks."""
    number = signal.SIGUSR2
    before, action = signal.pthread_sigmask(signal.SIG_BLOCK, {number}), signal.getsignal(number)
    signal.signal(number, signal.SIG_IGN)
    try:
        said = await output_of(
            supervisor, start, "grep", "-E", "SigIgn|SigBlk", "/proc/self/status"
        )
    finally:
        signal.signal(number, action)
        signal.pthread_sigmask(signal.SIG_SETMASK, before)

    # Of 32 and 33 only the C library may dispose.
    own = 1 << 31 | 1 << 32
    assert [int(line.split()[1], 16) & ~own for line in said.splitlines()] == [0, 0]


@contextlib.contextmanager
def a_terminal() -> Iterator[tuple[int, int]]:
    """Give both ends of a terminal."""
    master, slave = os.openpty()
    try:
        yield master, slave
    finally:
        os.close(master)
        os.close(slave)


async def test_interrupt_character_reaches_a_program_on_a_terminal(
    supervisor: ProcessSupervisor, start: Start
) -> None:
    """Ctrl-C typed into the terminal that a program was given ends it by SIGINT."""
    with a_terminal() as (master, slave):
        streams = {"stdin": slave, "stdout": slave, "stderr": slave}
        process = await start("sh", "-c", "echo up; exec sleep 60", **streams)
        assert b"up" in await asyncio.to_thread(os.read, master, 100)

        os.write(master, b"\x03")

        assert (await ended(supervisor, process)).status == 128 + signal.SIGINT


async def test_terminal_of_another_session_stays_with_it(
    supervisor: ProcessSupervisor, start: Start
) -> None:
    """A program that is given somebody else's controlling terminal does not take it away."""
    with a_terminal() as (master, slave):
        streams = {"stdin": slave, "stdout": slave, "stderr": slave}
        owner = await start("sh", "-c", "echo up; exec sleep 60", **streams)
        assert b"up" in await asyncio.to_thread(os.read, master, 100)

        guest = await start("true", stdin=slave)

        assert (await ended(supervisor, guest)).status == 0
        os.write(master, b"\x03")
        assert (await ended(supervisor, owner)).status == 128 + signal.SIGINT


async def test_wait_ends_when_the_supervisor_is_closed(
    supervisor: ProcessSupervisor, start: Start
) -> None:
    """Waits for a process fail when the supervisor is closed, and so do later calls."""
    process = await start("sleep", "60")
    waiting = asyncio.create_task(ended(supervisor, process))
    await asyncio.sleep(0)

    await supervisor.close()

    with pytest.raises(Unavailable):
        await waiting
    assert supervisor.closed
    procs.kill(*process, signal.SIGKILL)


async def test_name_may_be_as_long_as_ids_are(supervisor: ProcessSupervisor, null: int) -> None:
    """Descriptors under the longest ids of containers and execs are distinguished."""
    task, one, other = "k8s.io/" + "a" * 76, "b" * 75 + "1", "b" * 75 + "2"
    await supervisor.hold(f"{task}/{one}/stdin", null)

    found = await supervisor.fetch(f"{task}/{one}/stdin")

    assert found is not None
    os.close(found)
    assert await supervisor.fetch(f"{task}/{other}/stdin") is None


async def test_books_do_not_grow_with_what_has_ended(tmp_path: Path, null: int) -> None:
    """A shim remembers a bounded number of ends, and watches only what runs: execs come and go."""
    async with a_shims(tmp_path) as supervisor:
        sizes = []
        for _ in range(2):
            for _ in range(300):
                one = await supervisor.spawn(["true"], stdin=null, stdout=null, stderr=null)
                await ended(supervisor, one)
            sizes.append(supervisor.books)

    assert sizes[0] == sizes[1] == {"held": 0, "exits": 256, "waits": 0}


async def test_a_program_gets_what_it_needs_of_our_environment(
    supervisor: ProcessSupervisor, start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No secret of ours reaches what we start; the search path and the language do."""
    monkeypatch.setenv("MY_SECRET", "tok3n")
    monkeypatch.setenv("LANG", "C.UTF-8")
    note = tmp_path / "environment"

    await ended(supervisor, await start("sh", "-c", 'cat /proc/$$/environ > "$0"', str(note)))

    given = dict(line.split("=", 1) for line in note.read_text().strip("\0").split("\0"))
    assert given["PATH"] == os.environ["PATH"]
    assert given["LANG"] == "C.UTF-8"
    assert "MY_SECRET" not in given


async def test_a_program_gets_the_usual_umask(
    supervisor: ProcessSupervisor, start: Start, tmp_path: Path
) -> None:
    """Ours is for what we write ourselves: hooks, loggers and runsc make files as always."""
    note = tmp_path / "umask"
    before = os.umask(0o077)
    try:
        await ended(supervisor, await start("sh", "-c", 'umask > "$0"', str(note)))
        during = os.umask(0o077)
    finally:
        os.umask(before)

    assert note.read_text().strip() == "0022"
    assert during == 0o077
