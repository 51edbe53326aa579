"""The supervisor: real processes, real descriptors, real kills."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from shim.errors import Unavailable
from shim.host import procs
from shim.host.process_id import ProcessId
from shim.host.supervisor import exits, starter, wire
from shim.host.supervisor.client import SupervisorClient
from shim.host.supervisor.connection import Answer, Connection, Lost
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


@pytest.fixture
def state_dir(tmp_path: Path) -> Iterator[Path]:
    """Give a state folder whose supervisor is ended with the test."""
    path = tmp_path / "state"
    try:
        yield path
    finally:
        if path.exists():
            end_supervisor(path)


@pytest.fixture
async def supervisor(state_dir: Path) -> AsyncIterator[SupervisorClient]:
    """Give a connected supervisor."""
    supervisor = await SupervisorClient.connect(state_dir)
    try:
        yield supervisor
    finally:
        await supervisor.close()


@pytest.fixture
def null() -> Iterator[int]:
    """Give /dev/null."""
    with dev_null() as fd:
        yield fd


@pytest.fixture
def start(supervisor: SupervisorClient, null: int) -> Start:
    """Start a program with null streams."""
    return starting(supervisor, null)


async def test_cancelled_spawn_leaves_no_process(
    supervisor: SupervisorClient, start: Start
) -> None:
    """A start whose caller has gone is ended again."""
    starting = asyncio.create_task(start("sleep", "60"))
    await asyncio.sleep(0)
    starting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await starting
    async with asyncio.timeout(60):
        while not supervisor_saw_end(supervisor):  # noqa: ASYNC110 - seen only in /proc
            await asyncio.sleep(0.01)


def supervisor_saw_end(supervisor: SupervisorClient) -> bool:
    """Return whether the supervisor has no child left."""
    return not supervisor._connection._pending and not children(supervisor.pid)


_CLIENT = """
import asyncio, os, sys
from pathlib import Path
from shim.host.supervisor.client import SupervisorClient
async def main():
    supervisor = await SupervisorClient.connect(Path(sys.argv[1]))
    null = os.open("/dev/null", os.O_RDWR)
    stdin, held = os.pipe()
    argv = ["sh", "-c", "read x; exit $x"]
    process = await supervisor.spawn(argv, stdin=stdin, stdout=null, stderr=null)
    await supervisor.hold("stdin", held)
    os.close(held)
    print(supervisor.pid, *process, flush=True)
    await supervisor.wait(*process)
asyncio.run(main())
"""


def run_and_kill_client(state_dir: Path) -> list[int]:
    """Kill a client with -9 when it has said who its supervisor and its process are."""
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
    supervisor = await SupervisorClient.connect(state_dir)
    assert supervisor.pid == pid
    assert procs.is_alive(*process)

    stdin = await supervisor.fetch("stdin")
    assert stdin is not None
    os.write(stdin, b"23\n")
    os.close(stdin)

    assert (await ended(supervisor, ProcessId(*process))).status == 23
    await supervisor.drop("stdin")
    assert await supervisor.fetch("stdin") is None
    await supervisor.close()


async def test_killed_supervisor_is_followed_by_another(
    supervisor: SupervisorClient, start: Start, tmp_path: Path
) -> None:
    """After kill -9 of the supervisor calls work again, and exits of what runs are reported."""
    before = await start("sh", "-c", "trap 'exit 9' USR1; sleep 60 & wait")
    waiting = asyncio.create_task(ended(supervisor, before))
    await asyncio.sleep(0)
    first = supervisor.pid
    os.kill(first, signal.SIGKILL)
    await procs.wait_pidfd(first)

    after = await start("sh", "-c", "exit 7")

    assert (await ended(supervisor, after)).status == 7
    assert supervisor.pid != first
    assert not waiting.done()
    procs.kill(*before, signal.SIGTERM)
    assert_as_known_as_can_be(await waiting)
    with (tmp_path / "held").open("wb") as file:
        await supervisor.hold("a", file.fileno())
    found = await supervisor.fetch("a")
    assert found is not None
    os.close(found)


async def test_what_a_killed_supervisor_had_not_begun_the_next_one_does(
    supervisor: SupervisorClient, start: Start, tmp_path: Path
) -> None:
    """A request that comes in the moment of its death is no error, and is done once."""
    await start("true")
    os.kill(supervisor.pid, signal.SIGSTOP)
    lines = tmp_path / "lines"
    starts = [
        asyncio.create_task(start("sh", "-c", f"echo {number} >> {lines}")) for number in range(3)
    ]
    held = asyncio.create_task(supervisor.fetch("nothing"))
    await asyncio.sleep(0)

    os.kill(supervisor.pid, signal.SIGKILL)

    for process in await asyncio.gather(*starts):
        assert (await ended(supervisor, process)).status == 0
    assert await held is None
    assert sorted(lines.read_text().split()) == ["0", "1", "2"]


@contextlib.contextmanager
def connection_to(supervisor: socket.socket, client: socket.socket) -> Iterator[Connection]:
    """Give a connection to what the test plays."""
    lost: list[None] = []
    with supervisor:
        yield Connection(client, lambda: lost.append(None))
    assert lost == [None]


@pytest.mark.parametrize("unread", (False, True), ids=("all-read", "unread"))
@pytest.mark.parametrize("noticed", ("reading", "sending"))
@pytest.mark.parametrize("says", (False, True), ids=("silent", "says"))
async def test_what_a_killed_supervisor_may_have_begun_is_not_done_again(
    says: bool, noticed: str, unread: bool
) -> None:
    """A program is not started twice: the error says that it may have been started."""
    theirs, ours = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with connection_to(theirs, ours) as connection:

        async def asked() -> int:
            future = asyncio.ensure_future(connection.ask("spawn", {}, [], doing="start it"))
            futures.append(future)
            await asyncio.sleep(0)
            return connection._number

        futures: list[asyncio.Future[Answer]] = []
        number = await asked()
        if says:
            wire.send(theirs, wire.encode({"begun": number}), [])
        wire.send(theirs, wire.encode({"n": number, "ok": {}}), [])
        await futures.pop()
        number = await asked()
        await asked()
        for _ in range(1 if unread else 3):
            wire.receive(theirs)
        if says:
            wire.send(theirs, wire.encode({"begun": number}), [])
        theirs.close()
        if noticed == "sending":
            with pytest.raises(Lost):
                await connection.ask("drop", {}, [], doing="drop it")
        found = await asyncio.gather(*futures, return_exceptions=True)

    # One of an earlier release does not say what it begins: it may have begun both.
    assert [isinstance(one, Lost) and one.begun for one in found] == [True, not says]


async def test_another_supervisor_leaves_the_folder_open_to_the_group_of_the_socket(
    supervisor: SupervisorClient, state_dir: Path
) -> None:
    """The sidecar's socket lies in the state folder, and its group still reaches it."""
    state_dir.chmod(0o710)
    first = supervisor.pid
    os.kill(first, signal.SIGKILL)
    await procs.wait_pidfd(first)

    assert await supervisor.fetch("nothing") is None

    assert supervisor.pid != first
    assert stat.S_IMODE(state_dir.stat().st_mode) == 0o710


async def test_log_of_a_supervisor_outlives_the_start_of_another(
    supervisor: SupervisorClient, state_dir: Path
) -> None:
    """Why a supervisor has exited can be read although another one was started at once."""
    (state_dir / "keeper.log").write_text("the last words\n")
    first = supervisor.pid
    os.kill(first, signal.SIGKILL)
    await procs.wait_pidfd(first)

    assert await supervisor.fetch("nothing") is None

    assert supervisor.pid != first
    assert "the last words" in (state_dir / "keeper.log").read_text()


async def test_end_is_known_though_the_connection_was_lost(
    supervisor: SupervisorClient, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A supervisor that lives on is asked again if it reaped the process before we looked."""
    monkeypatch.setattr(exits, "foreign_exit", lambda *_: exits.unknown())
    reader, writer = os.pipe2(os.O_CLOEXEC)
    process = await start("sh", "-c", "read line; exit 9", stdin=reader)
    os.close(reader)
    waiting = asyncio.create_task(ended(supervisor, process))
    await asyncio.sleep(0)
    pid = supervisor.pid
    supervisor._connection._lose()
    assert await supervisor.fetch("nothing") is None
    assert supervisor.pid == pid

    os.close(writer)

    found = await waiting
    assert found.known
    assert found.status == 9


async def test_end_asked_for_after_the_supervisor_was_killed(
    supervisor: SupervisorClient, start: Start
) -> None:
    """A wait that begins when the supervisor is gone returns the exit too."""
    process = await start("sleep", "60")
    first = supervisor.pid
    os.kill(first, signal.SIGKILL)
    await procs.wait_pidfd(first)
    waiting = asyncio.create_task(ended(supervisor, process))
    await asyncio.sleep(0)
    assert await supervisor.fetch("nothing") is None
    procs.kill(*process, signal.SIGTERM)

    assert_as_known_as_can_be(await waiting)


async def test_supervisor_that_cannot_be_replaced_is_reported(
    supervisor: SupervisorClient, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If no other supervisor starts each call fails at once, and the next that can works."""
    first = supervisor.pid
    with monkeypatch.context() as broken:
        broken.setattr(starter, "_BOOT", "raise SystemExit(1)")
        os.kill(first, signal.SIGKILL)
        await procs.wait_pidfd(first)
        for _ in range(2):
            with pytest.raises(Unavailable, match="supervisor"):
                await start("true")
        await supervisor.drop("nothing")

    assert (await ended(supervisor, await start("true"))).status == 0


async def test_connecting_at_once_starts_one_supervisor(state_dir: Path) -> None:
    """Many clients that find none start a single supervisor."""
    supervisors = await asyncio.gather(*(SupervisorClient.connect(state_dir) for _ in range(8)))

    assert len({each.pid for each in supervisors}) == 1
    for each in supervisors:
        await each.close()


async def test_idle_supervisor_goes_by_itself(state_dir: Path, null: int) -> None:
    """With no child, client or descriptor the supervisor exits; the next one reads its history."""
    supervisor = await SupervisorClient.connect(state_dir, idle_s=0.05)
    process = await supervisor.spawn(["sh", "-c", "exit 5"], stdin=null, stdout=null, stderr=null)
    start = procs.start_time(supervisor.pid) or 0
    await supervisor.close()
    await asyncio.wait_for(procs.wait_pidfd(supervisor.pid, start), 60)

    second = await SupervisorClient.connect(state_dir)

    assert second.pid != supervisor.pid
    assert (await ended(second, process)).status == 5
    await second.close()


async def test_supervisor_that_does_not_answer(
    state_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A supervisor that hangs is an error that says so, not a hang."""
    supervisor = await SupervisorClient.connect(state_dir)
    monkeypatch.setattr(starter, "_HELLO_S", 0.2)
    os.kill(supervisor.pid, signal.SIGSTOP)
    try:
        with pytest.raises(Unavailable, match="did not answer"):
            await SupervisorClient.connect(state_dir)
    finally:
        os.kill(supervisor.pid, signal.SIGCONT)
        await supervisor.close()


async def test_supervisor_that_cannot_start(
    state_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A supervisor that dies while starting is an error that names its log."""
    monkeypatch.setattr(starter, "_BOOT", "raise SystemExit(1)")

    with pytest.raises(Unavailable) as caught:
        await SupervisorClient.connect(state_dir)

    assert "keeper.log" in caught.value.remedy


async def test_path_longer_than_an_address(tmp_path: Path) -> None:
    """A state folder with a long name works although a socket address is short."""
    state = tmp_path / ("x" * 200) / "state"
    try:
        supervisor = await SupervisorClient.connect(state)
        assert await supervisor.fetch("nothing") is None
        await supervisor.close()
    finally:
        end_supervisor(state)


async def test_broken_memory_is_no_obstacle(state_dir: Path) -> None:
    """A supervisor starts over when what an earlier one wrote down cannot be read."""
    state_dir.mkdir(mode=0o700)
    (state_dir / "keeper.exits").write_text('[[1, 2, "x"]]')

    supervisor = await SupervisorClient.connect(state_dir)

    assert "cannot load" in (state_dir / "keeper.log").read_text()
    await supervisor.close()


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
    state_dir: Path, supervisor: SupervisorClient, packet: bytes
) -> None:
    """A peer that talks nonsense is dropped with its descriptors; the others are served."""
    fds = f"/proc/{supervisor.pid}/fd"
    before = len(names(fds))
    with Path("/dev/null").open() as null, wire_socket(state_dir) as hostile:
        socket.send_fds(hostile, [packet], [null.fileno()] * 5)
        assert await asyncio.to_thread(hostile.recv, 100) == b""

    assert await supervisor.fetch("nothing") is None
    assert len(names(fds)) == before


def wire_socket(state_dir: Path) -> socket.socket:
    """Connect without manners."""
    sock = starter._dial(state_dir)
    assert sock is not None
    return sock


async def test_peer_that_does_not_read_does_not_hold_up_others(
    state_dir: Path, supervisor: SupervisorClient
) -> None:
    """Answers to a deaf peer wait in the supervisor, which goes on serving; then they are read."""
    with wire_socket(state_dir) as deaf:
        for number in range(2000):
            deaf.send(b'{"n":%d,"op":"hello"}' % number)
        assert await supervisor.fetch("nothing") is None
        answers = [json.loads(await asyncio.to_thread(deaf.recv, 1000)) for _ in range(2000)]

    assert [each["n"] for each in answers] == list(range(2000))


async def test_other_users_cannot_connect(state_dir: Path, supervisor: SupervisorClient) -> None:
    """The socket is for its owner alone."""
    assert starter.socket_path(state_dir).stat().st_mode & 0o777 == 0o600


def test_supervisor_is_light() -> None:
    """The supervisor loads neither asyncio nor msgspec nor subprocess."""
    script = (
        "import sys; import shim.host.supervisor.server; "
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
    memory.expect(ProcessId(1, 1))
    memory.record(ProcessId(1, 1), exits.Exited.with_timestamp(7, 0.0))
    for pid in range(2, 10_000):
        memory.record(ProcessId(pid, 1), exits.Exited.with_timestamp(0, 0.0))

    assert len(memory.dump()) == 4097
    assert memory.ask(ProcessId(2, 1)) is None
    assert memory.ask(ProcessId(1, 1)) == exits.Exited.with_timestamp(7, 0.0)
