"""The keeper: real processes, real descriptors, real kills."""

from __future__ import annotations

import asyncio
import json
import os
import resource
import select
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest

from shim.errors import Busy, InvalidArgument, NotFound, Unavailable
from shim.host import procs
from shim.host.keeper import exits, starter, wire
from shim.host.keeper.client import Exited, Keeper, Spawned

Start = Callable[..., Coroutine[Any, Any, Spawned]]


def names(path: Path | str) -> list[str]:
    """List a folder."""
    return [each.name for each in Path(path).iterdir()]


def children(pid: int) -> list[int]:
    """List the children of a process."""
    return [int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def end_keeper(state_dir: Path) -> None:
    """End the keeper of a state folder with all its children, if one is there."""
    sock = starter._dial(state_dir)
    if sock is None:
        return
    with sock:
        credentials = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
    pid = int.from_bytes(credentials[:4], sys.byteorder)
    fd = os.pidfd_open(pid)
    try:
        for child in children(pid):
            os.kill(child, signal.SIGKILL)
        os.kill(pid, signal.SIGKILL)
        assert select.select([fd], [], [], 10)[0], "the keeper did not die"
    finally:
        os.close(fd)


@pytest.fixture
def state_dir(tmp_path: Path) -> Iterator[Path]:
    """Give a state folder whose keeper is ended with the test."""
    path = tmp_path / "state"
    try:
        yield path
    finally:
        if path.exists():
            end_keeper(path)


@pytest.fixture
async def keeper(state_dir: Path) -> AsyncIterator[Keeper]:
    """Give a connected keeper."""
    keeper = await Keeper.connect(state_dir)
    try:
        yield keeper
    finally:
        await keeper.close()


@pytest.fixture
def null() -> Iterator[int]:
    """Give /dev/null."""
    fd = os.open("/dev/null", os.O_RDWR)
    try:
        yield fd
    finally:
        os.close(fd)


@pytest.fixture
def start(keeper: Keeper, null: int) -> Start:
    """Start a program with null streams."""

    async def run(*argv: str, **more: Any) -> Spawned:
        streams = {"stdin": null, "stdout": null, "stderr": null, **more}
        return await keeper.spawn(argv, **streams)

    return run


async def ended(keeper: Keeper, process: Spawned) -> Exited:
    """Wait, but not for ever."""
    async with asyncio.timeout(60):
        return await keeper.wait(*process)


@pytest.mark.parametrize(
    ("script", "status"), (("exit 7", 7), ("kill -9 $$", 137), ("kill -15 $$", 143), ("true", 0))
)
async def test_exit_status_is_shell_style(
    keeper: Keeper, start: Start, script: str, status: int
) -> None:
    """A code is itself and a signal is 128 and its number."""
    found = await ended(keeper, await start("sh", "-c", script))

    assert (found.status, found.known) == (status, True)


async def test_wait_after_the_end_and_again(keeper: Keeper, start: Start) -> None:
    """The end is told to whoever asks later, as often as asked."""
    first = await start("sh", "-c", "exit 3")
    second = await start("sh", "-c", "exit 4")

    assert (await ended(keeper, second)).status == 4
    assert (await ended(keeper, first)).status == 3
    assert (await ended(keeper, first)).status == 3


async def test_many_wait_for_one_and_some_give_up(keeper: Keeper, start: Start) -> None:
    """Concurrent waits share an end; a cancelled one takes nothing from the others."""
    process = await start("sleep", "60")
    waits = [asyncio.create_task(ended(keeper, process)) for _ in range(10)]
    await asyncio.sleep(0)
    waits[0].cancel()
    procs.kill(*process, signal.SIGTERM)

    results = await asyncio.gather(*waits, return_exceptions=True)

    assert isinstance(results[0], asyncio.CancelledError)
    assert {each.status for each in results[1:] if isinstance(each, Exited)} == {143}
    assert keeper._waits == {}


async def spawn_orphan(start: Start, tmp_path: Path, then: str) -> Spawned:
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
    return Spawned(pid, procs.start_time(pid) or 0)


async def test_orphan_is_adopted_and_its_end_told(
    keeper: Keeper, start: Start, tmp_path: Path
) -> None:
    """A process that was forked twice becomes the keeper's, which tells how it ended."""
    process = await spawn_orphan(start, tmp_path, "sleep 60 & wait")
    waiting = asyncio.create_task(ended(keeper, process))
    await asyncio.sleep(0)
    procs.kill(*process, signal.SIGUSR1)

    assert (await waiting).status == 9


async def test_orphan_that_ended_before_anybody_asked(
    keeper: Keeper, start: Start, tmp_path: Path
) -> None:
    """The end of an adopted process is remembered with no one waiting."""
    process = await spawn_orphan(start, tmp_path, "exec sleep 60")
    procs.kill(*process, signal.SIGTERM)
    await procs.wait_pidfd(*process)

    found = await ended(keeper, process)

    assert (found.status, found.known) == (143, True)


def assert_as_known_as_can_be(found: Exited) -> None:
    """Check the end by SIGTERM of a process that the keeper could not reap."""
    version = tuple(int(each) for each in os.uname().release.split(".")[:2])
    if version >= (6, 15):
        assert found.known
    assert found.status == (143 if found.known else 255)


async def test_grandchild_whose_parent_lives(keeper: Keeper, start: Start, tmp_path: Path) -> None:
    """A process that the keeper cannot reap is watched; its end is told, known or not."""
    note = tmp_path / "pid"
    os.mkfifo(note)
    script = f"sleep 60 & echo $! > {note}; wait; exec sleep 60"
    parent = await start("sh", "-c", script)
    line = await asyncio.to_thread(note.read_text)
    pid = int(line)
    process = Spawned(pid, procs.start_time(pid) or 0)
    waiting = asyncio.create_task(ended(keeper, process))
    await asyncio.sleep(0)  # the question goes out
    await keeper.names()  # answered in order: by now the keeper watches
    os.kill(pid, signal.SIGTERM)

    found = await waiting

    assert_as_known_as_can_be(found)
    assert procs.is_alive(*parent)


async def test_process_that_never_was(keeper: Keeper) -> None:
    """A process that nobody knows has an end that nobody knows."""
    found = await ended(keeper, Spawned(os.getpid(), 1))

    assert (found.status, found.known) == (exits.UNKNOWN, False)


async def test_program_gets_what_it_was_given(keeper: Keeper, start: Start, tmp_path: Path) -> None:
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
        stdout=writer, cwd=str(tmp_path), env={"A": "b c=d"}, pass_fds=[extra, reader],
    )  # fmt: skip
    os.close(writer)
    os.close(extra)
    with os.fdopen(reader) as output:
        said = json.loads(await asyncio.to_thread(output.read))

    assert (await ended(keeper, process)).status == 0
    assert said["fds"] == [0, 1, 2, 3, 4]
    assert (said["cwd"], said["env"], said["three"]) == (str(tmp_path), "b c=d", "hello")
    assert (said["sid"], said["blocked"]) == (True, 0)
    # The child is Python, which ignores two itself; of 32 and 33 only the C library may dispose.
    allowed = {signal.SIGPIPE, signal.SIGXFSZ, 32, 33}
    assert int(said["ignored"][0], 16) & ~sum(1 << (number - 1) for number in allowed) == 0
    assert tuple(said["files"]) == resource.getrlimit(resource.RLIMIT_NOFILE)


async def test_program_does_not_ignore_sigpipe(keeper: Keeper, start: Start) -> None:
    """A program dies of a broken pipe as it would under a shell."""
    reader, writer = os.pipe()
    os.close(reader)
    process = await start("sh", "-c", "echo x; echo x", stdout=writer)
    os.close(writer)

    assert (await ended(keeper, process)).status == 128 + signal.SIGPIPE


@pytest.mark.parametrize(
    ("argv", "more", "error"),
    (
        (["/no/such/program"], {}, NotFound),
        (["true"], {"cwd": "/no/such/folder"}, NotFound),
        (["/"], {}, Exception),
        (["true", "a\0b"], {}, InvalidArgument),
        (["true"], {"env": {"A=B": "c"}}, InvalidArgument),
        (["true"], {"env": {"A": "\ud800"}}, InvalidArgument),
        (["true", "x" * 200_000], {}, InvalidArgument),
    ),
)
async def test_program_that_cannot_start(
    keeper: Keeper, start: Start, argv: list[str], more: dict[str, Any], error: type[Exception]
) -> None:
    """What cannot be started is a typed error; no child is left and the keeper goes on."""
    with pytest.raises(error, match=r"cannot|too large"):
        await start(*argv, **more)

    assert children(keeper.pid) == []
    assert (await ended(keeper, await start("true"))).status == 0


async def test_cancelled_spawn_leaves_no_process(keeper: Keeper, start: Start) -> None:
    """A start that nobody waited for is ended again."""
    starting = asyncio.create_task(start("sleep", "60"))
    await asyncio.sleep(0)
    starting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await starting
    async with asyncio.timeout(60):
        while not keeper_saw_end(keeper):  # noqa: ASYNC110 - seen only in /proc
            await asyncio.sleep(0.01)


def keeper_saw_end(keeper: Keeper) -> bool:
    """Tell whether the keeper has no child left."""
    return not keeper._pending and not children(keeper.pid)


async def test_two_hundred_quick_children(keeper: Keeper, start: Start) -> None:
    """No zombie and no descriptor is left of many children that end at once."""
    fds = f"/proc/{keeper.pid}/fd"
    before = (len(names(fds)), len(names("/proc/self/fd")))
    processes = [await start("true") for _ in range(200)]

    results = await asyncio.gather(*(ended(keeper, each) for each in processes))

    assert {each.status for each in results} == {0}
    assert children(keeper.pid) == []
    # What others had left open before may have been closed since.
    assert len(names(fds)) <= before[0]
    assert len(names("/proc/self/fd")) <= before[1]


_CLIENT = """
import asyncio, os, sys
from pathlib import Path
from shim.host.keeper.client import Keeper
async def main():
    keeper = await Keeper.connect(Path(sys.argv[1]))
    null = os.open("/dev/null", os.O_RDWR)
    stdin, held = os.pipe()
    argv = ["sh", "-c", "read x; exit $x"]
    process = await keeper.spawn(argv, stdin=stdin, stdout=null, stderr=null)
    await keeper.hold("stdin", held)
    os.close(held)
    print(keeper.pid, *process, flush=True)
    await keeper.wait(*process)
asyncio.run(main())
"""


def run_and_kill_client(state_dir: Path) -> list[int]:
    """Kill a client with -9 when it has said who its keeper and its process are."""
    with subprocess.Popen(
        [sys.executable, "-c", _CLIENT, str(state_dir)], stdout=subprocess.PIPE
    ) as client:
        assert client.stdout is not None
        said = [int(each) for each in client.stdout.readline().split()]
        client.kill()
    return said


async def test_client_that_is_killed_loses_nothing(state_dir: Path) -> None:
    """After kill -9 of the client a second one finds the process, its stdin, and its end."""
    pid, *process = await asyncio.to_thread(run_and_kill_client, state_dir)
    keeper = await Keeper.connect(state_dir)
    assert keeper.pid == pid
    assert procs.is_alive(*process)

    stdin = await keeper.fetch("stdin")
    assert stdin is not None
    os.write(stdin, b"23\n")
    os.close(stdin)

    assert (await ended(keeper, Spawned(*process))).status == 23
    await keeper.drop("stdin")
    assert await keeper.names() == []
    await keeper.quit()


async def test_held_stdin_is_what_keeps_it_open(keeper: Keeper, start: Start) -> None:
    """A reader sees the end only when the held write end is dropped."""
    stdin, held = os.pipe()
    process = await start("cat", stdin=stdin)
    await keeper.hold("a", held)
    os.close(held)
    os.close(stdin)
    waiting = asyncio.create_task(ended(keeper, process))
    await asyncio.sleep(0.05)
    assert not waiting.done()

    await keeper.drop("a")

    assert (await waiting).status == 0
    assert await keeper.fetch("a") is None


async def test_hold_replaces_and_is_bounded(keeper: Keeper, null: int) -> None:
    """A name holds one descriptor; a name that is too long is refused."""
    fds = f"/proc/{keeper.pid}/fd"
    before = len(names(fds))
    for _ in range(5):
        await keeper.hold("a", null)

    assert len(names(fds)) == before + 1
    with pytest.raises(InvalidArgument):
        await keeper.hold("a" * 129, null)


async def test_killed_keeper_is_unavailable_and_the_next_one_starts(
    state_dir: Path, null: int
) -> None:
    """Waits fail when the keeper dies; connecting again starts one that watches what goes on."""
    keeper = await Keeper.connect(state_dir)
    process = await keeper.spawn(["sleep", "60"], stdin=null, stdout=null, stderr=null)
    waiting = asyncio.create_task(ended(keeper, process))
    await asyncio.sleep(0.05)
    os.kill(keeper.pid, signal.SIGKILL)

    with pytest.raises(Unavailable):
        await waiting
    with pytest.raises(Unavailable):
        await keeper.names()
    second = await Keeper.connect(state_dir)
    assert second.pid != keeper.pid
    waiting = asyncio.create_task(ended(second, process))
    await asyncio.sleep(0.05)
    assert not waiting.done()
    procs.kill(*process, signal.SIGTERM)
    found = await waiting
    assert_as_known_as_can_be(found)
    await second.close()


async def test_connecting_at_once_starts_one_keeper(state_dir: Path) -> None:
    """Many who find nobody there start one keeper between them."""
    keepers = await asyncio.gather(*(Keeper.connect(state_dir) for _ in range(8)))

    assert len({each.pid for each in keepers}) == 1
    for each in keepers:
        await each.close()


async def test_quit_only_without_children(state_dir: Path, null: int) -> None:
    """A keeper with children refuses to go; without, it goes and leaves its memory behind."""
    keeper = await Keeper.connect(state_dir)
    process = await keeper.spawn(["sleep", "60"], stdin=null, stdout=null, stderr=null)
    with pytest.raises(Busy):
        await keeper.quit()
    procs.kill(*process, signal.SIGKILL)
    await ended(keeper, process)
    start = procs.start_time(keeper.pid) or 0
    await keeper.quit()
    await asyncio.wait_for(procs.wait_pidfd(keeper.pid, start), 60)
    assert not starter.socket_path(state_dir).exists()

    second = await Keeper.connect(state_dir)

    assert (await ended(second, process)).status == 137
    await second.close()


async def test_idle_keeper_goes_by_itself(state_dir: Path, null: int) -> None:
    """With no child, no client and nothing held the keeper ends; its memory is taken up again."""
    keeper = await Keeper.connect(state_dir, idle_s=0.05)
    process = await keeper.spawn(["sh", "-c", "exit 5"], stdin=null, stdout=null, stderr=null)
    start = procs.start_time(keeper.pid) or 0
    await keeper.close()
    await asyncio.wait_for(procs.wait_pidfd(keeper.pid, start), 60)

    second = await Keeper.connect(state_dir)

    assert second.pid != keeper.pid
    assert (await ended(second, process)).status == 5
    await second.close()


async def test_keeper_that_does_not_answer(
    state_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A keeper that hangs is an error that says so, not a hang."""
    keeper = await Keeper.connect(state_dir)
    monkeypatch.setattr(starter, "_HELLO_S", 0.2)
    os.kill(keeper.pid, signal.SIGSTOP)
    try:
        with pytest.raises(Unavailable, match="does not answer"):
            await Keeper.connect(state_dir)
    finally:
        os.kill(keeper.pid, signal.SIGCONT)
        await keeper.close()


async def test_keeper_that_cannot_start(state_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A keeper that dies while starting is an error that names its log."""
    monkeypatch.setattr(starter, "_BOOT", "raise SystemExit(1)")

    with pytest.raises(Unavailable) as caught:
        await Keeper.connect(state_dir)

    assert "keeper.log" in caught.value.remedy


async def test_path_longer_than_an_address(tmp_path: Path) -> None:
    """A state folder with a long name works although a socket address is short."""
    state = tmp_path / ("x" * 200) / "state"
    try:
        keeper = await Keeper.connect(state)
        await keeper.quit()
    finally:
        end_keeper(state)


async def test_broken_memory_is_no_obstacle(state_dir: Path) -> None:
    """A keeper starts over when what an earlier one wrote down cannot be read."""
    state_dir.mkdir(mode=0o700)
    (state_dir / "keeper.exits").write_text('[[1, 2, "x"]]')

    keeper = await Keeper.connect(state_dir)

    assert "are lost" in (state_dir / "keeper.log").read_text()
    await keeper.close()


@pytest.mark.parametrize(
    "packet",
    (
        b"\xff\xfe",
        b"[]",
        b"{}",
        b'{"n":1,"op":"nonsense"}',
        b'{"n":-1,"op":"hello"}',
        b'{"n":true,"op":"hello"}',
        b'{"n":1,"op":"wait","pid":99999999999999,"start":1}',
        b'{"n":1,"op":"spawn","argv":[1],"env":{},"cwd":"/"}',
        b'{"n":1,"op":"spawn","argv":["true"],"env":[],"cwd":"/"}',
        b'{"n":1,"op":"hold","name":7}',
        b"[" * 100_000,
        b" " * (wire.LIMIT_BYTES + 1),
    ),
)
async def test_hostile_packet_costs_only_its_sender(
    state_dir: Path, keeper: Keeper, packet: bytes
) -> None:
    """A peer that talks nonsense is dropped with its descriptors; the others are served."""
    fds = f"/proc/{keeper.pid}/fd"
    before = len(names(fds))
    with Path("/dev/null").open() as null, wire_socket(state_dir) as hostile:
        socket.send_fds(hostile, [packet], [null.fileno()] * 5)
        assert await asyncio.to_thread(hostile.recv, 100) == b""

    assert await keeper.names() == []
    assert len(names(fds)) == before


def wire_socket(state_dir: Path) -> socket.socket:
    """Connect without manners."""
    sock = starter._dial(state_dir)
    assert sock is not None
    return sock


async def test_peer_that_does_not_read_holds_up_nobody(state_dir: Path, keeper: Keeper) -> None:
    """Answers to a deaf peer wait in the keeper, which goes on serving; then they are read."""
    with wire_socket(state_dir) as deaf:
        for number in range(2000):
            deaf.send(b'{"n":%d,"op":"hello"}' % number)
        assert await keeper.names() == []
        answers = [json.loads(await asyncio.to_thread(deaf.recv, 1000)) for _ in range(2000)]

    assert [each["n"] for each in answers] == list(range(2000))


async def test_other_users_cannot_connect(state_dir: Path, keeper: Keeper) -> None:
    """The socket is for its owner alone."""
    assert starter.socket_path(state_dir).stat().st_mode & 0o777 == 0o600


def test_keeper_is_light() -> None:
    """The keeper loads neither asyncio nor msgspec nor subprocess."""
    script = (
        "import sys; import shim.host.keeper.server; "
        "print([n for n in ('asyncio', 'msgspec', 'subprocess', 'pathlib', 'shim.errors') "
        "if n in sys.modules])"
    )
    root = str(Path(__file__).parents[2])
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", f"import sys; sys.path.insert(0, {root!r}); {script}"],
        check=True, capture_output=True, text=True, timeout=20,
    )  # fmt: skip

    assert done.stdout.strip() == "[]"


def test_memory_is_bounded_but_keeps_what_was_spawned() -> None:
    """Ten thousand adopted ends do not push out one spawned child's."""
    memory = exits.Exits()
    memory.expect(exits.Key(1, 1))
    memory.record(exits.Key(1, 1), exits.End(7, 0.0))
    for pid in range(2, 10_000):
        memory.record(exits.Key(pid, 1), exits.End(0, 0.0))

    assert len(memory.dump()) == 4097
    assert memory.ask(exits.Key(2, 1)) is None
    assert memory.ask(exits.Key(1, 1)) == exits.End(7, 0.0)
