"""The runsc client: exact ids, one command line each, typed answers. Runsc is a shell script."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Self

import pytest

from shim.config import Config, Timeouts
from shim.errors import (
    CryoError,
    DeadlineExceeded,
    NotFound,
    ResourceExhausted,
    RunscError,
    Unavailable,
)
from shim.runsc import trace
from shim.runsc.argv import CheckpointArgs, ExecArgs
from shim.runsc.client import Runsc
from shim.runsc.open_streams import OpenStreams
from tests.unit.fakes_runsc import (
    PS_NEW,
    PS_OLD,
    ROWS,
    ROWS_OLD,
    STATS,
    FakeSupervisor,
    Script,
    capabilities,
    client,
    known,
)

Operation = Callable[[Runsc], Awaitable[object]]

OPERATIONS: dict[str, tuple[Operation, list[str]]] = {
    "start": (lambda r: r.start("a"), ["start", "a+"]),
    "kill": (lambda r: r.kill("a", 15), ["kill", "a+", "15"]),
    "kill one": (lambda r: r.kill("a", 9, pid=7), ["kill", "--pid=7", "a+", "9"]),
    "kill all": (lambda r: r.kill("a", 9, everyone=True), ["kill", "--all", "a+", "9"]),
    "pause": (lambda r: r.pause("a"), ["pause", "a+"]),
    "resume": (lambda r: r.resume("a"), ["resume", "a+"]),
    "update": (lambda r: r.update("a", "/f"), ["update", "--resources=/f", "a+"]),
    "wait": (lambda r: r.wait_restore("a", 5), ["wait", "--restore", "a+"]),
    "checkpoint": (
        lambda r: r.checkpoint(CheckpointArgs(id="a", image_path="/i"), timeout_s=5),
        ["checkpoint", "--leave-running", "--image-path=/i", "--compression=none", "a+"],
    ),
    "exec": (
        lambda r: r.exec(ExecArgs(id="a", argv=["/bin/ls"], internal_pid_file="/p"), timeout_s=5),
        ["exec", "--internal-pid-file=/p", "a+", "/bin/ls"],
    ),
}


@pytest.fixture
def script(tmp_path: Path) -> Script:
    """Give a runsc that is a script."""
    return Script(tmp_path)


@pytest.mark.parametrize("name", tuple(OPERATIONS))
async def test_what_is_run(script: Script, name: str) -> None:
    """Each operation is exactly one command, with the root directory and the closed id."""
    runsc = client(script)
    known(runsc, "a")
    operation, expected = OPERATIONS[name]

    await operation(runsc)

    assert script.calls == [[f"--root={runsc.containers.root}", *expected]]


@pytest.mark.parametrize("name", tuple(OPERATIONS))
async def test_a_container_whose_name_begins_alike_is_not_touched(
    script: Script, name: str
) -> None:
    """Runsc would take `ab` for `a`: with only `ab` there, nothing is run at all."""
    runsc = client(script)
    known(runsc, "ab")
    known(runsc, "a.b")

    with pytest.raises(NotFound, match="task a"):
        await OPERATIONS[name][0](runsc)
    assert script.calls == []


async def test_delete_of_what_is_not_there_runs_nothing(script: Script) -> None:
    """`runsc delete -force a` with only `ab` there deleted `ab`; ours does not ask."""
    runsc = client(script)
    known(runsc, "ab")

    await runsc.delete("a")
    await runsc.delete("nobody")

    assert script.calls == []


async def test_delete_takes_the_lock_of_what_never_was(script: Script) -> None:
    """A runsc that was killed before it wrote its state has left it; others' stay."""
    runsc = client(script)
    known(runsc, "b")
    locks = [runsc.containers.root / f"{name}+_sandbox:{name}+.lock" for name in ("a", "ab", "b")]
    for lock in locks:
        lock.touch()

    await runsc.delete("a")

    assert [lock.exists() for lock in locks] == [False, True, True]


async def test_delete_runs_once(script: Script) -> None:
    """What is there is removed by force; that it went meanwhile is fine."""
    runsc = client(script)
    known(runsc, "a")
    script.prints("delete", err="loading container: file does not exist\n", status=128)

    await runsc.delete("a")

    assert script.calls == [[f"--root={runsc.containers.root}", "delete", "--force", "a+"]]


def test_only_the_exact_container_exists(script: Script) -> None:
    """State files of other names, of other kinds, and of no name at all do not count."""
    runsc = client(script)
    for name in ("ab", "a-1", "ba", "A"):
        known(runsc, name)
    (runsc.containers.root / "a+_sandbox:a+.lock").touch()
    (runsc.containers.root / "a_sandbox:a.state").touch()

    assert not runsc.containers.exists("a")
    assert runsc.containers.exists("ab")

    known(runsc, "a", sandbox="pod")
    assert runsc.containers.exists("a")


def test_nothing_exists_where_no_root_is(tmp_path: Path) -> None:
    """Before the first create there is no folder to look into."""
    runsc = Runsc(Config(), capabilities(), tmp_path / "nowhere", FakeSupervisor(), OpenStreams())

    assert not runsc.containers.exists("a")


FAILURES = (
    ('pause failed: cannot pause container "a+" in state paused\n', RunscError),
    ("checkpoint failed: statefile error: no space left on device\n", ResourceExhausted),
    ("connecting to control server at PID 2962: connection refused\n", Unavailable),
)


@pytest.mark.parametrize(("err", "kind"), FAILURES)
async def test_a_failure_has_runscs_words(script: Script, err: str, kind: type[CryoError]) -> None:
    """The error is typed and says which command it was."""
    runsc = client(script)
    known(runsc, "a")
    script.prints("pause", err=err, status=128)

    with pytest.raises(kind, match="runsc pause"):
        await runsc.pause("a")


@pytest.mark.parametrize(
    ("shell", "is_over"),
    (
        ("exit 0", True),
        ("echo 'checkpoint failed: no space left on device' >&2; exit 128", True),
        ("echo 'loading container: EOF' >&2; exit 128", False),
        ("kill -9 $$", False),
    ),
)
async def test_only_the_sentrys_own_word_ends_a_save(
    script: Script, shell: str, is_over: bool
) -> None:
    """A command that was killed, or failed for itself, says nothing of the save."""
    runsc, received = client(script), list[str]()
    known(runsc, "a")
    script.on("checkpoint", shell)

    with contextlib.suppress(CryoError):
        await runsc.checkpoint(
            CheckpointArgs(id="a", image_path="/i"),
            timeout_s=5,
            answered=lambda: received.append("over"),
        )

    assert bool(received) is is_over


async def test_a_command_that_hangs_is_ended(script: Script) -> None:
    """No runsc command is waited for longer than configured."""
    runsc = client(script, timeouts=Timeouts(command=0.1))
    known(runsc, "a")
    script.on("pause", "exec sleep 1000")

    with pytest.raises(DeadlineExceeded):
        await runsc.pause("a")


async def test_execs_status_is_an_answer(script: Script) -> None:
    """A program that fails inside has still been run."""
    runsc = client(script)
    known(runsc, "a")
    script.prints("exec", out="o", err="e", status=3)

    done = await runsc.exec(ExecArgs(id="a", argv=["x"], internal_pid_file="/p"), timeout_s=5)

    assert (done.status, done.stdout, done.stderr) == (3, b"o", b"e")


async def test_flags_of_the_configuration_reach_runsc(script: Script) -> None:
    """Top-level flags stand before the command in an order that does not change."""
    runsc = client(script)
    runsc.flags.update({"network": "none", "host-uds": "open"})
    known(runsc, "a")

    await runsc.pause("a")

    assert script.calls[0][1:3] == ["--host-uds=open", "--network=none"]


# -- ps ------------------------------------------------------------------------------------------


async def test_ps_by_the_command(script: Script) -> None:
    """Where the sentry has no socket the command is asked."""
    runsc = client(script)
    known(runsc, "a")
    script.prints("ps", out=PS_NEW)

    assert await runsc.ps("a") == ROWS
    assert script.calls == [[f"--root={runsc.containers.root}", "ps", "--format=table", "a+"]]


class Sentry:
    """Answers each connection to a container's control socket with the same bytes."""

    def __init__(self, path: Path, answer: bytes) -> None:
        self.requests: list[Any] = []
        self._path = path
        self._answer = answer

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_unix_server(self._serve, self._path)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        await self._server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.requests.append(json.loads(await reader.read(1 << 16)))
        writer.write(self._answer)
        await writer.drain()
        writer.close()


def answer(result: object) -> bytes:
    """Make the sentry's answer."""
    return json.dumps({"success": True, "err": "", "result": result}).encode()


@pytest.mark.parametrize("task", ("a", "a" * 64), ids=("short", "as of Kubernetes"))
async def test_ps_by_the_sentry(script: Script, monkeypatch: pytest.MonkeyPatch, task: str) -> None:
    """The sentry's own socket is a hundred times faster than the command, so it comes first."""
    runsc = client(script)
    known(runsc, task)
    rows = [
        {"uid": 0, "pid": r.pid, "ppid": r.parent, "pgid": r.group, "cmd": r.command} for r in ROWS
    ]
    monkeypatch.chdir(runsc.containers.root)

    # What does not fit into an address from the root of all paths does from here.
    async with Sentry(Path(f"runsc-{task}+.sock"), answer(rows)) as sentry:
        assert await runsc.ps(task) == ROWS

    assert sentry.requests == [{"method": "containerManager.Processes", "arg": f"{task}+"}]
    assert script.calls == []


HOSTILE = (
    b" ",
    b"{",
    b"null",
    b"[]",
    b'{"success": false, "err": "unknown method"}',
    answer(None),
    answer(5),
    answer({"a": 1}),
    answer([1]),
    answer([{"pid": 1}]),
    answer([{"pid": [], "ppid": 1, "cmd": "x"}]),
    b'{"success": true, "result": [{"pid": Infinity, "ppid": 0, "cmd": "x"}]}',
    b'{"success": true, "result": [{"pid": NaN, "ppid": 0, "cmd": "x"}]}',
    b'{"success": true, "result": ' + b"[" * 100_000,
    b"[" * 100_000 + b"]" * 100_000,
    b"\xff\xfe" * 50,
)


@pytest.mark.parametrize("number", range(len(HOSTILE)))
async def test_a_strange_answer_falls_back_to_the_command(script: Script, number: int) -> None:
    """A sentry of another version, or one that was taken over, costs a command and no more."""
    runsc = client(script)
    known(runsc, "a")
    script.prints("ps", out=PS_OLD)

    async with Sentry(runsc.containers.root / "runsc-a+.sock", HOSTILE[number]):
        assert await runsc.ps("a") == ROWS_OLD


async def test_a_silent_sentry_is_not_waited_for(
    script: Script, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A sentry that takes the question and says nothing costs a moment."""
    monkeypatch.setattr("shim.runsc.urpc._TIMEOUT_S", 0.1)
    runsc = client(script)
    known(runsc, "a")
    script.prints("ps", out=PS_OLD)
    gate = asyncio.Event()

    async def silent(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await gate.wait()
        writer.close()

    server = await asyncio.start_unix_server(silent, runsc.containers.root / "runsc-a+.sock")
    try:
        assert await runsc.ps("a") == ROWS_OLD
    finally:
        gate.set()
        server.close()


# -- stats ---------------------------------------------------------------------------------------


async def test_stats_through_the_command(script: Script) -> None:
    """One reading, not a stream."""
    runsc = client(script)
    known(runsc, "a")
    script.prints("events", out=json.dumps(STATS))

    assert (await runsc.stats("a")).pids == 2
    assert script.calls == [[f"--root={runsc.containers.root}", "events", "--stats", "a+"]]


@pytest.mark.parametrize(
    ("error", "ends"),
    ((trace.NoSession("somebody else's"), False), (Unavailable("no answer"), True)),
    ids=("somebody else's", "perhaps ours"),
)
async def test_whose_trace_session_is_removed(
    script: Script, monkeypatch: pytest.MonkeyPatch, error: CryoError, ends: bool
) -> None:
    """One that was there before, such as a security monitor's, is left alone."""
    runsc = client(script)
    known(runsc, "a")
    script.prints("state", out=json.dumps({"id": "a+", "status": "stopped"}))
    ended: list[Path] = []

    async def fail(*_: object) -> dict[int, bool]:
        raise error

    async def end(path: Path) -> None:
        ended.append(path)

    monkeypatch.setattr(trace, "exec_descendants", fail)
    monkeypatch.setattr(trace, "end", end)

    with pytest.raises(type(error)):
        await runsc.sentry.exec_descendants("a", [1])

    assert bool(ended) is ends
