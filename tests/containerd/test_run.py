"""Containers in our shim, run with the ctr of each line."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from shim.simgpu.waiting import wait_until
from tests.containerd.cryo import COUNT, RUNTIME, Cryo
from tests.containerd.image import REFERENCE

pytestmark = pytest.mark.usefixtures("nothing_left")
_HOW = ("--runtime", RUNTIME, "--snapshotter", "native")
# ctr sets the size after the start, and busybox does not fail without a size.
_SIZE = 'until s=$(stty size 2>/dev/null) && [ "$s" ] && [ "$s" != "0 0" ]; do sleep 0.02; done'


def test_exit_codes(cryo: Cryo) -> None:
    """An attached run returns the container's output and exit code, however soon it exits."""

    def run(code: int) -> tuple[str, int]:
        ran = cryo.run(cryo.fresh("code"), "sh", "-c", f"echo to {code}; exit {code}", check=False)
        return ran.out, ran.status

    def run_binary(name: str) -> int:
        return cryo.run(cryo.fresh("bin"), name, check=False).status

    codes = (0, 7, 137, 1, 255)
    assert cryo.each(run, codes) == [(f"to {code}\n", code) for code in codes]
    assert cryo.each(run_binary, ("true", "false", "true")) == [0, 1, 0]


def test_streams_are_apart(cryo: Cryo) -> None:
    """The stdout and stderr of a container arrive completely and separately."""
    script = "seq 1 20000; echo seen >&2"

    ran = cryo.run("apart", "sh", "-c", script)

    assert ran.out.split() == [str(number) for number in range(1, 20001)]
    assert "seen" in ran.err.splitlines()


def test_input(cryo: Cryo) -> None:
    """The input of an attached run arrives, including its end of file."""
    argv = ("run", "--rm", *_HOW, REFERENCE, "input", "cat")

    assert cryo.ctr_with_input("input", *argv, text=b"to and fro\n").out == "to and fro\n"


def test_terminal(cryo: Cryo) -> None:
    """A container's terminal has ctr's size; it gets what is typed and returns its exit code."""
    script = f"{_SIZE}; echo $s; read line; echo got $line; exit 7"
    argv = ("run", "--rm", "-t", *_HOW, REFERENCE, "tty", "sh", "-c", script)

    ran = cryo.ctr_on_terminal(*argv, typed="typed\n", size="33x99", check=False)

    assert "33 99" in ran.out
    assert "got typed" in ran.out
    assert ran.status == 7


def test_logs_go_to_a_file(cryo: Cryo) -> None:
    """`--log-uri file://` appends stdout and stderr of the container to a file."""
    path = cryo.folder / "scratch" / cryo.fresh("log")
    script = "echo out; echo err >&2; sleep 1000"
    with cryo.container("sh", "-c", script, flags=("--log-uri", f"file://{path}")):
        wait_until(lambda: path.exists() and path.stat().st_size >= 8, "the log", 60)
        assert sorted(path.read_text("utf-8").split()) == ["err", "out"]


def test_logs_go_to_a_program(cryo: Cryo) -> None:
    """`--log-uri binary://` passes both outputs to a program, which exits with the container."""
    path = cryo.folder / "scratch" / cryo.fresh("logged")
    logger = cryo.folder / "scratch" / cryo.fresh("logger")
    lines = (
        "#!/bin/sh",
        f'echo "$CONTAINER_NAMESPACE $CONTAINER_ID $1 $2" > {path}',
        f"exec 5>&-; cat <&4 > {path}.err & cat <&3 >> {path}; wait",
        "",
    )
    logger.write_text("\n".join(lines), "utf-8")
    logger.chmod(0o755)
    uri = f"binary://{logger}?key=value"
    script = "echo out; echo err >&2; exit 3"
    with cryo.container("sh", "-c", script, flags=("--log-uri", uri)) as name:
        cryo.until_status(name, "STOPPED")
        assert "exit code 3" in cryo.ctr("tasks", "delete", name).err
        assert path.read_text("utf-8").splitlines() == [
            f"{cryo.namespace} {name} key value",
            "out",
        ]
        assert Path(f"{path}.err").read_text("utf-8") == "err\n"


def test_its_client_dies(cryo: Cryo) -> None:
    """A container whose attached client is killed keeps running, and its output is discarded."""
    name, said = cryo.fresh("left"), cryo.folder / "scratch" / cryo.fresh("said")
    script = f"(while true; do echo more; sleep 0.05; done) & {COUNT}"
    argv = ("run", *_HOW, REFERENCE, name, "sh", "-c", script)
    with cryo.removing(name):
        pid = cryo.ctr_in_background(*argv, output=said)
        wait_until(lambda: said.exists() and b"more" in said.read_bytes(), "its output", 60)
        cryo.place.remote.kill(pid)
        cryo.place.remote.wait(pid, 10)
        cryo.until_counts(name)
        cryo.until_counts(name)
        assert cryo.status(name) == "RUNNING"


def test_exec(cryo: Cryo) -> None:
    """An exec has its own output and exit code; if it cannot be started, the error says why."""
    with cryo.container() as name:
        # ctr 1.x may exit before it has copied the last output: seen once, on a very busy machine.
        script = "echo in; echo err >&2; exit 3"
        tries = (cryo.exec(name, "sh", "-c", script, check=False) for _ in range(3))
        ran = next((ran for ran in tries if ran.out and "err" in ran.err.splitlines()), None)
        assert ran is not None
        assert (ran.out, ran.status) == ("in\n", 3)
        assert cryo.exec(name, "sh", "-c", "kill -9 $$", check=False).status == 137
        missing = cryo.exec(name, "no-such-program", check=False)
        assert missing.status != 0
        assert "no-such-program" in missing.err
        assert cryo.status(name) == "RUNNING"


def test_interrupt_character_ends_an_exec(cryo: Cryo) -> None:
    """Ctrl-C in `ctr tasks exec -t` sends SIGINT to the program inside."""
    script = 'trap "echo interrupted; exit 9" INT; echo up; while true; do sleep 0.1; done'
    with cryo.container("sleep", "1000") as name:
        argv = ("tasks", "exec", "-t", "--exec-id", "int", name, "sh", "-c", script)

        ran = cryo.ctr_on_terminal(*argv, typed="\x03", after="up\r", check=False)

    assert "interrupted" in ran.out
    assert ran.status == 9


def test_exec_on_a_terminal(cryo: Cryo) -> None:
    """An exec's terminal has ctr's size; it gets what is typed and returns its exit code."""
    script = f"{_SIZE}; echo $s; read line; echo got $line; exit 5"
    with cryo.container() as name:
        argv = ("tasks", "exec", "-t", "--exec-id", "tty", name, "sh", "-c", script)

        ran = cryo.ctr_on_terminal(*argv, typed="typed\n", size="21x77", check=False)

        assert "21 77" in ran.out
        assert "got typed" in ran.out
        assert ran.status == 5


def test_kill(cryo: Cryo) -> None:
    """A signal reaches init only, or with --all every process; the exit code shows it."""
    script = "trap 'echo heard > /heard' USR1; trap 'exit 9' TERM; sleep 1000 & touch /up; "
    with cryo.container("sh", "-c", script + "while true; do sleep 0.02; done") as name:
        wait_until(lambda: cryo.exec(name, "test", "-e", "/up", check=False).status == 0, name, 60)
        cryo.ctr("tasks", "kill", "--signal", "SIGUSR1", name)
        wait_until(lambda: "heard" in cryo.exec(name, "cat", "/heard", check=False).out, name, 60)
        cryo.ctr("tasks", "kill", "--signal", "SIGTERM", name)
        cryo.until_status(name, "STOPPED")
        assert "exit code 9" in cryo.ctr("tasks", "delete", name).err
    with cryo.container("sh", "-c", "sleep 1000 & sleep 1000; true") as name:
        cryo.ctr("tasks", "kill", "--all", "--signal", "SIGKILL", name)
        cryo.until_status(name, "STOPPED")
        assert cryo.ctr("tasks", "kill", name, check=False).status != 0
        assert "exit code 137" in cryo.ctr("tasks", "delete", name).err


def test_pause(cryo: Cryo) -> None:
    """A paused task stops, is listed as paused, continues when resumed, and can be killed."""
    with cryo.container("sh", "-c", COUNT) as name:
        cryo.until_counts(name)
        cryo.ctr("tasks", "pause", name)
        assert cryo.status(name) == "PAUSED"
        assert cryo.exec(name, "true", check=False).status != 0
        cryo.ctr("tasks", "resume", name)
        assert cryo.status(name) == "RUNNING"
        cryo.until_counts(name)
        cryo.ctr("tasks", "pause", name)
        cryo.kill_task(name)


def test_stats(cryo: Cryo) -> None:
    """`ctr tasks metrics` shows the container's current usage."""
    with cryo.container("sh", "-c", "while true; do true; done") as name:

        def cpu() -> int:
            out = cryo.ctr("tasks", "metrics", name).out
            found = re.search(r"^cpu(?:acct\.usage|\.usage_usec)\s+(\d+)", out, re.MULTILINE)
            assert found, out
            return int(found[1])

        first = cpu()
        assert first > 0
        wait_until(lambda: cpu() > first, "the count of cpu time", 60)
        shown = cryo.ctr("tasks", "metrics", name).out
        used = re.search(r"^memory\.usage(?:_in_bytes)?\s+(\d+)", shown, re.MULTILINE)
        assert used, shown
        assert int(used[1]) > 1 << 20


def test_processes(cryo: Cryo) -> None:
    """`ctr tasks ps` lists the host processes of the container, its task's first."""
    with cryo.container("sh", "-c", "sleep 1000 & sleep 1000; true") as name:
        task = cryo.ctr("tasks", "ls").out.split(name, 1)[1].split()[0]

        listed = [line.split()[0] for line in cryo.ctr("tasks", "ps", name).out.splitlines()[1:]]

        assert listed[0] == task
        for pid in listed:
            assert name in Path(f"/proc/{pid}/cmdline").read_text("utf-8", "replace")


def test_limits_change(cryo: Cryo) -> None:
    """A container can get a memory limit, and has that cgroup until it is deleted."""
    with cryo.container(flags=("--memory-limit", str(256 << 20))) as name:
        shown = cryo.ctr("tasks", "metrics", name).out
        limit = re.search(r"^memory\.(?:usage_)?limit(?:_in_bytes)?\s+(\d+)", shown, re.MULTILINE)
        assert limit, shown
        assert int(limit[1]) == 256 << 20


def test_events(cryo: Cryo) -> None:
    """Events arrive in order: a start before its exit, the exit of an exec before that of init."""
    with cryo.events() as events:
        cryo.run("seen", "true")
        events.until("/tasks/delete")
    assert events.topics() == ["/tasks/create", "/tasks/start", "/tasks/exit", "/tasks/delete"]
    assert '"container_id":"seen"' in events.of("/tasks/exit")[0].body
    with cryo.events() as events:
        with cryo.container() as name:
            cryo.exec(name, "true")
            cryo.ctr("tasks", "pause", name)
            cryo.ctr("tasks", "resume", name)
        events.until("/tasks/delete")
    assert events.topics() == [
        "/tasks/create",
        "/tasks/start",
        "/tasks/exec-added",
        "/tasks/exec-started",
        "/tasks/exit",
        "/tasks/paused",
        "/tasks/resumed",
        "/tasks/exit",
        "/tasks/delete",
    ]


def test_a_start_that_fails(cryo: Cryo) -> None:
    """If the program does not exist, the start fails with its name and leaves nothing."""
    with cryo.removing("wrong"):
        ran = cryo.run("wrong", "no-such-program", check=False)

        assert ran.status != 0
        assert "no-such-program" in ran.err
