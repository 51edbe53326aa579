"""The runsc client: exact ids, one command line each, typed answers. Runsc is a shell script."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Self

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shim.config import Config, Timeouts
from shim.errors import (
    CryoError,
    DeadlineExceeded,
    NotFound,
    ResourceExhausted,
    RunscError,
    Unavailable,
)
from shim.host import procs
from shim.model import Stats
from shim.runsc import client as client_module
from shim.runsc import trace
from shim.runsc.argv import CheckpointArgs, CreateArgs, ExecArgs, RestoreArgs
from shim.runsc.client import GuestProcess, Runsc, Streams, last_error, parse_ps, parse_stats
from shim.simgpu.waiting import wait_until
from tests.hung import hung_mount
from tests.unit.fakes_runsc import FakeSupervisor, Script, capabilities, client, known

PS_OLD = """\
UID       PID       PPID      C         TTY       STIME     TIME      CMD
0         1         0         3         ?         18:49     10ms      sh
0         2         1         3         ?         18:49     10ms      my prog
"""
PS_NEW = """\
UID       PID       PPID      PGID      C         TTY       STIME     TIME      CMD
0         1         0         1         1         ?         18:49     0s        sh
0         2         1         1         0         ?         18:49     0s        my prog
"""
ROWS_OLD = [
    GuestProcess(pid=1, parent=0, command="sh"),
    GuestProcess(pid=2, parent=1, command="my prog"),
]
ROWS = [
    GuestProcess(pid=1, parent=0, command="sh", group=1),
    GuestProcess(pid=2, parent=1, command="my prog", group=1),
]
STATS = {
    "type": "stats",
    "id": "d+",
    "data": {
        "cpu": {"usage": {"total": 1398526349335}},
        "memory": {"usage": {"limit": 0, "usage": 2527232, "failcnt": 0}},
        "pids": {"current": 2},
    },
}
STREAMS = Streams(stdin=0, stdout=1, stderr=2)
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
        lambda r: r.exec("a", ["/bin/ls"], timeout_s=5, internal_pid_file="/p"),
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

    assert script.calls == [[f"--root={runsc.root}", *expected]]


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
    locks = [runsc.root / f"{name}+_sandbox:{name}+.lock" for name in ("a", "ab", "b")]
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

    assert script.calls == [[f"--root={runsc.root}", "delete", "--force", "a+"]]


def test_only_the_exact_container_exists(script: Script) -> None:
    """State files of other names, of other kinds, and of no name at all do not count."""
    runsc = client(script)
    for name in ("ab", "a-1", "ba", "A"):
        known(runsc, name)
    (runsc.root / "a+_sandbox:a+.lock").touch()
    (runsc.root / "a_sandbox:a.state").touch()

    assert not runsc.exists("a")
    assert runsc.exists("ab")

    known(runsc, "a", sandbox="pod")
    assert runsc.exists("a")


def test_nothing_exists_where_no_root_is(tmp_path: Path) -> None:
    """Before the first create there is no folder to look into."""
    runsc = Runsc(Config(), capabilities(), tmp_path / "nowhere", FakeSupervisor())

    assert not runsc.exists("a")


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

    done = await runsc.exec("a", ["x"], timeout_s=5, internal_pid_file="/p")

    assert (done.status, done.stdout, done.stderr) == (3, b"o", b"e")


async def test_flags_of_the_configuration_reach_runsc(script: Script) -> None:
    """Top-level flags stand before the command in an order that does not change."""
    runsc = client(script)
    runsc._flags.update({"network": "none", "host-uds": "open"})
    known(runsc, "a")

    await runsc.pause("a")

    assert script.calls[0][1:3] == ["--host-uds=open", "--network=none"]


# -- ps ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("text", "rows"), ((PS_OLD, ROWS_OLD), (PS_NEW, ROWS)))
def test_the_table_of_both_versions(text: str, rows: list[GuestProcess]) -> None:
    """Columns are found by the header; the command may have spaces in it."""
    assert parse_ps(text) == rows


def test_no_processes() -> None:
    """An ended container has an empty table."""
    assert parse_ps("") == []
    assert parse_ps(PS_NEW.splitlines()[0]) == []


@pytest.mark.parametrize(
    "text",
    (
        "no header at all",
        "PID CMD\n1 sh",
        PS_NEW + "0 3 1 1",
        PS_NEW + "0 x 1 1 0 ? 18:49 0s sh",
        PS_NEW + "0 " + "9" * 5000 + " 1 1 0 ? 18:49 0s sh",
        PS_NEW + "0 ² 1 1 0 ? 18:49 0s sh",
        PS_NEW + "evil name",
    ),
)
def test_a_table_that_is_none_is_an_error_of_ours(text: str) -> None:
    """A process may call itself what it likes, a line break included: that is no crash."""
    with pytest.raises(RunscError, match="runsc ps"):
        parse_ps(text)


@given(text=st.text(max_size=300), tail=st.text(max_size=60))
def test_any_table_is_read_or_refused(text: str, tail: str) -> None:
    """Whatever runsc prints: rows, or one typed error."""
    for whole in (text, PS_NEW + tail, PS_NEW.replace("sh\n", text + "\n")):
        try:
            rows = parse_ps(whole)
        except RunscError:
            continue
        assert all(row.pid >= 0 for row in rows)


async def test_ps_by_the_command(script: Script) -> None:
    """Where the sentry has no socket the command is asked."""
    runsc = client(script)
    known(runsc, "a")
    script.prints("ps", out=PS_NEW)

    assert await runsc.ps("a") == ROWS
    assert script.calls == [[f"--root={runsc.root}", "ps", "--format=table", "a+"]]


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
    monkeypatch.chdir(runsc.root)

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

    async with Sentry(runsc.root / "runsc-a+.sock", HOSTILE[number]):
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

    server = await asyncio.start_unix_server(silent, runsc.root / "runsc-a+.sock")
    try:
        assert await runsc.ps("a") == ROWS_OLD
    finally:
        gate.set()
        server.close()


# -- stats ---------------------------------------------------------------------------------------


def test_stats_as_they_are() -> None:
    """What runsc measures, and zero for what it does not."""
    assert parse_stats(json.dumps(STATS)) == Stats(
        cpu_usage_ns=1398526349335, memory_bytes=2527232, memory_rss_bytes=2527232, pids=2
    )


BAD_STATS = ("", "{", "[]", "null", "1", '{"data": 1}', '{"data": {"cpu": []}}', "[" * 200_000)


@pytest.mark.parametrize(
    "text",
    (
        *BAD_STATS,
        '{"data": {"pids": {"current": "x"}}}',
        '{"data": {"pids": {"current": Infinity}}}',
        '{"data": {"pids": {"current": [1]}}}',
    ),
    ids=lambda text: repr(text[-30:]),
)
def test_no_stats_is_an_error_of_ours(text: str) -> None:
    """Numbers that are none are said so."""
    with pytest.raises(RunscError, match="runsc events"):
        parse_stats(text)


JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(("data", "cpu", "usage", "total", "memory", "pids", "current")),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@given(data=JSON)
def test_any_stats_are_read_or_refused(data: object) -> None:
    """Whatever JSON comes: numbers, or one typed error."""
    with contextlib.suppress(RunscError):
        parse_stats(json.dumps(data))


async def test_stats_through_the_command(script: Script) -> None:
    """One reading, not a stream."""
    runsc = client(script)
    known(runsc, "a")
    script.prints("events", out=json.dumps(STATS))

    assert (await runsc.stats("a")).pids == 2
    assert script.calls == [[f"--root={runsc.root}", "events", "--stats", "a+"]]


# -- create and restore --------------------------------------------------------------------------


def made(tmp_path: Path, supervisor: FakeSupervisor, timeouts: Timeouts | None = None) -> Runsc:
    """Make a client whose creates go through the supervisor."""
    config = Config(timeouts=timeouts or Timeouts(create=10))
    return Runsc(config, capabilities(), tmp_path / "root", supervisor)


def create_args(tmp_path: Path) -> CreateArgs:
    """Ask for a container."""
    return CreateArgs(id="a", bundle="/b", pid_file=str(tmp_path / "pid"))


def writes_pid(tmp_path: Path) -> list[str]:
    """Behave as runsc does: leave a pid file."""
    return ["/bin/sh", "-c", f"printf 1 >{tmp_path}/pid"]


async def test_create_reports_the_sandbox(tmp_path: Path) -> None:
    """The sandbox's pid comes from the pid file, with its start time; errors go to a log file."""
    supervisor = FakeSupervisor(writes_pid(tmp_path))
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


async def test_a_container_without_gpu_gets_no_nvproxy(tmp_path: Path) -> None:
    """The flag is for containers that have a GPU, and restore speaks the same way."""
    supervisor = FakeSupervisor(writes_pid(tmp_path))
    runsc = made(tmp_path, supervisor)
    args = RestoreArgs(id="a", bundle="/b", pid_file=f"{tmp_path}/pid", image_path="/i")

    await runsc.create(create_args(tmp_path), STREAMS, gpu=False, log=tmp_path / "log")
    await runsc.restore(args, STREAMS, gpu=False, log=tmp_path / "log", timeout_s=10)

    assert not any("nvproxy" in word for argv in supervisor.spawned for word in argv)
    assert supervisor.spawned[1][4:] == ["restore", *args.args()]


async def test_a_failed_create_reads_the_log(tmp_path: Path) -> None:
    """The sentry keeps the streams, so the reason stands in the log; an old log is no reason."""
    entry = json.dumps({"level": "error", "msg": "no such bundle"})
    (tmp_path / "log").write_text(json.dumps({"level": "error", "msg": "of yesterday"}))
    supervisor = FakeSupervisor(["/bin/sh", "-c", f"echo '{entry}' >{tmp_path}/log; exit 128"])

    with pytest.raises(RunscError, match="runsc create failed: no such bundle"):
        await made(tmp_path, supervisor).create(
            create_args(tmp_path), STREAMS, gpu=False, log=tmp_path / "log"
        )


async def test_an_old_log_is_no_reason(tmp_path: Path) -> None:
    """What an earlier run left in the log is not taken for this one's."""
    (tmp_path / "log").write_text(json.dumps({"level": "error", "msg": "of yesterday"}))

    with pytest.raises(RunscError, match="exit status 1 and no message"):
        await made(tmp_path, FakeSupervisor(["/bin/false"])).create(
            create_args(tmp_path), STREAMS, gpu=False, log=tmp_path / "log"
        )


@pytest.mark.parametrize("content", (None, "", "x", "-"))
async def test_no_pid_file_is_a_failure(tmp_path: Path, content: str | None) -> None:
    """A runsc that succeeds without writing a pid has failed."""
    if content is not None:
        (tmp_path / "pid").write_text(content)

    with pytest.raises(RunscError, match="no pid file"):
        await made(tmp_path, FakeSupervisor()).create(
            create_args(tmp_path), STREAMS, gpu=False, log=tmp_path / "log"
        )


async def test_a_create_that_hangs_is_ended(tmp_path: Path) -> None:
    """The command is killed by its exact pid and waited for, and the message says how long."""
    supervisor = FakeSupervisor(["/bin/sleep", "1000"])
    runsc = made(tmp_path, supervisor, Timeouts(create=0.1))

    with pytest.raises(DeadlineExceeded, match=r"runsc create did not end in 0\.1 s"):
        await runsc.create(create_args(tmp_path), STREAMS, gpu=False, log=tmp_path / "log")

    assert [child.returncode for child in supervisor.children.values()] == [-9]


async def test_a_sandbox_that_was_begun_ends_with_its_command(tmp_path: Path) -> None:
    """Its pid is not written down yet when the command is given up: it would run on."""
    noted = tmp_path / "sandbox"
    begin = f"setsid sh -c 'echo $$ >{noted}.new; mv {noted}.new {noted}; exec sleep 1000' & wait"
    supervisor = FakeSupervisor(["/bin/sh", "-c", begin])
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


async def test_a_cancelled_create_is_ended(tmp_path: Path) -> None:
    """A caller who leaves leaves no runsc behind."""
    supervisor = FakeSupervisor(["/bin/sleep", "1000"])
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


async def test_a_create_that_does_not_die(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that hangs in the kernel is waited for a bounded time, and named with its state."""
    monkeypatch.setattr(client_module, "KILLED_S", 0.2)
    with hung_mount(tmp_path / "hung") as mount:
        supervisor = FakeSupervisor(["/bin/cat", f"{mount.path}/file"])
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


async def test_a_create_that_cannot_be_noted_is_ended(tmp_path: Path) -> None:
    """When the pid of runsc cannot be recorded, it is ended now: later it could not be found."""
    supervisor = FakeSupervisor(["/bin/sleep", "1000"])

    def full(_pid: int, _start: int) -> None:
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        await made(tmp_path, supervisor).create(
            create_args(tmp_path), STREAMS, gpu=False, log=tmp_path / "log", started=full
        )

    assert [child.returncode for child in supervisor.children.values()] == [-9]


async def test_an_attached_exec_is_spawned(tmp_path: Path) -> None:
    """The runner's identity comes back; it is asked for only in a container that is there."""
    supervisor = FakeSupervisor()
    runsc = made(tmp_path, supervisor)
    args = ExecArgs(id="a", process="/f", internal_pid_file="/p")

    with pytest.raises(NotFound):
        await runsc.exec_spawn(args, STREAMS, tmp_path / "log")
    assert supervisor.spawned == []

    runsc.root.mkdir()
    known(runsc, "a")
    process = await runsc.exec_spawn(args, STREAMS, tmp_path / "log")
    await supervisor.wait(process.pid, process.start)
    assert process.pid in supervisor.children
    assert supervisor.spawned[0][4:] == ["exec", *args.args()]


def test_only_the_end_of_a_long_log_is_read(tmp_path: Path) -> None:
    """A log that a debug run made huge is not read whole; no log is no error."""
    log = tmp_path / "log"
    with log.open("w") as file:
        file.write((json.dumps({"level": "info", "msg": "x" * 1000}) + "\n") * 3000)
        file.write(json.dumps({"level": "error", "msg": "the end"}) + "\n")

    assert last_error(log) == "the end"
    assert last_error(tmp_path / "none") == ""


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
        await runsc.exec_descendants("a", [1])

    assert bool(ended) is ends
