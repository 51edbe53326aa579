"""A process's standard streams: files, fifos with clients that come and go, terminals."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest

from shim.errors import FailedPrecondition, InvalidArgument
from shim.model import Stdio
from shim.simgpu.simulation import wait_until
from shim.state import TaskState
from tests.real.helpers_rig import WAIT_S, Fifos, Output, Rig, refused

pytestmark = pytest.mark.timeout(60)

ECHO = 'while read line; do echo "got $line"; done; echo end; exit 5'


@pytest.fixture
def fifos(tmp_path: Path) -> Iterator[Fifos]:
    """Give fifos, as containerd and its clients use them."""
    with closing(Fifos(tmp_path)) as made:
        yield made


def test_output_to_files(rig: Rig) -> None:
    """Both streams go where they should; null is fine."""
    out, err = Output(rig, "out"), Output(rig, "err")
    stdio = Stdio(stdout=out.stdio.stdout, stderr=err.stdio.stderr)
    rig.program("job", "/bin/sh", "-c", "echo one; echo two >&2; exit 3", stdio=stdio)

    assert rig.client.wait("job").status == 3
    assert (out.text(), err.text()) == ("one\n", "two\n")


def test_output_to_fifos_ends_with_the_task(rig: Rig, fifos: Fifos) -> None:
    """A client reads everything, then the end: no copy of the writer's end is left anywhere."""
    script = "echo one; echo two >&2; dd if=/dev/zero bs=65536 count=20 2>/dev/null"
    rig.program("job", "/bin/sh", "-c", script, stdio=fifos.stdio)

    assert rig.client.wait("job").status == 0
    assert len(fifos.out.finish()) == 4 + 20 * 65536
    assert fifos.err.finish() == b"two\n"


def test_stdin_stays_open_until_it_is_closed(rig: Rig, fifos: Fifos) -> None:
    """A client may leave and come back; CloseIO is the end of the input."""
    rig.program("job", "/bin/sh", "-c", ECHO, stdio=fifos.stdio)
    fifos.write(b"first\n")
    fifos.out.until(b"got first\n")
    fifos.leave()
    assert rig.client.state("job").state is TaskState.RUNNING
    fifos.come()
    fifos.write(b"second\n")
    fifos.out.until(b"got second\n")
    fifos.leave()

    rig.client.close_io("job")

    assert rig.client.wait("job").status == 5
    assert fifos.out.finish().endswith(b"end\n")


def test_stdin_of_an_exec(rig: Rig, fifos: Fifos) -> None:
    """As for a task, with an end of its own."""
    rig.sleeper("job")
    rig.execute("job", "e", "/bin/sh", "-c", ECHO, stdio=fifos.stdio)
    fifos.write(b"word\n")
    fifos.out.until(b"got word\n")
    fifos.leave()
    rig.client.close_io("job", "e")

    assert rig.client.wait("job", "e").status == 5
    assert fifos.out.finish() == b"got word\nend\n"
    assert rig.client.state("job").state is TaskState.RUNNING


def test_stdin_outlives_the_sidecar(rig: Rig, fifos: Fifos) -> None:
    """The write end that keeps an input open is not the sidecar's: killed or not, it stays."""
    rig.program("job", "/bin/sh", "-c", ECHO, stdio=fifos.stdio)
    fifos.leave()
    rig.crash()
    assert rig.client.state("job").state is TaskState.RUNNING
    fifos.come()
    fifos.write(b"later\n")
    fifos.out.until(b"got later\n")
    fifos.leave()
    rig.client.close_io("job")

    assert rig.client.wait("job").status == 5


def test_streams_after_a_restore(rig: Rig, fifos: Fifos, tmp_path: Path) -> None:
    """A copy talks to the streams that the restore names."""
    other = Fifos(tmp_path / "other")
    with closing(other):
        rig.program("job", "/bin/sh", "-c", ECHO, stdio=fifos.stdio)
        fifos.write(b"before\n")
        fifos.out.until(b"got before\n")
        made = rig.checkpoint("job", exit=True)
        assert fifos.out.finish() == b"got before\n"

        rig.restore("copy", made.image_path, stdio=other.stdio)
        other.write(b"after\n")
        other.out.until(b"got after\n")
        other.leave()
        rig.client.close_io("copy")

        assert rig.client.wait("copy").status == 5


@pytest.mark.parametrize("stream", ("relative", "ftp:///x", "file://host/x", "fifo:x"))
def test_streams_that_cannot_be(rig: Rig, stream: str) -> None:
    """A stream that is no absolute path is refused, and no task is made."""
    bundle = str(rig.bundle("job", ["/bin/true"]))
    refused(InvalidArgument, lambda: rig.client.create("job", bundle, stdio=Stdio(stdout=stream)))
    assert rig.client.list() == []


# Terminals.


def test_terminal(rig: Rig, fifos: Fifos) -> None:
    """A shell has a terminal of the size that the client says, and ends by what is typed."""
    argv = ["/bin/sh", "-c", "test -t 0 && echo it is; while read line; do $line; done; exit 6"]
    rig.program("job", *argv, stdio=fifos.terminal, terminal=True)
    fifos.out.until(b"it is")
    rig.client.resize_pty("job", 101, 37)
    fifos.write(b"stty size\n")
    fifos.out.until(b"37 101")
    fifos.write(b"\x04")

    assert rig.client.wait("job").status == 6
    fifos.out.finish()


def test_what_is_typed_is_a_signal(rig: Rig, fifos: Fifos) -> None:
    """Ctrl-C ends what runs in the foreground."""
    argv = ["/bin/sh", "-c", "trap 'echo caught; exit 8' INT; echo on; while :; do sleep 0.1; done"]
    rig.program("job", *argv, stdio=fifos.terminal, terminal=True)
    fifos.out.until(b"on")
    fifos.write(b"\x03")

    assert rig.client.wait("job").status == 8
    assert b"caught" in fifos.out.finish()


def test_terminal_of_an_exec(rig: Rig, fifos: Fifos) -> None:
    """As for a task; Ctrl-C is a signal to what runs there."""
    rig.sleeper("job")
    argv = [
        "/bin/sh",
        "-c",
        "trap 'echo caught; exit 8' INT; stty size; while :; do sleep 0.1; done",
    ]
    rig.execute("job", "e", *argv, stdio=fifos.terminal)
    rig.client.resize_pty("job", 90, 20, "e")
    wait_until(lambda: fifos.out.data.count(b"\n") >= 1, "the size", WAIT_S)
    fifos.write(b"\x03")

    assert rig.client.wait("job", "e").status == 8
    assert b"caught" in fifos.out.finish()
    refused(FailedPrecondition, lambda: rig.client.resize_pty("job", 1, 1))


def test_what_is_typed_while_an_exec_starts(rig: Rig, fifos: Fifos) -> None:
    """Ctrl-C is for the program, however early it is typed, and not for its `runsc exec`."""
    pid = rig.sleeper("job")
    os.kill(pid, signal.SIGSTOP)
    with ThreadPoolExecutor(1) as pool:
        try:
            work = pool.submit(rig.execute, "job", "e", "/bin/sleep", "1000", stdio=fifos.terminal)
            wait_until(lambda: "exec" in rig.commands(), "runsc exec", WAIT_S)
            fifos.write(b"\x03")
        finally:
            os.kill(pid, signal.SIGCONT)
        assert work.result(WAIT_S) > 0

    assert rig.client.wait("job", "e").status == 128 + signal.SIGINT


def test_terminal_outlives_the_sidecar(rig: Rig, fifos: Fifos) -> None:
    """A sidecar that comes back goes on with the terminals that there are."""
    argv = ["/bin/sh", "-c", "while read line; do $line; done; exit 6"]
    rig.program("job", *argv, stdio=fifos.terminal, terminal=True)
    rig.crash()
    rig.client.resize_pty("job", 77, 11)
    fifos.write(b"stty size\n")
    fifos.out.until(b"11 77")
    fifos.write(b"\x04")

    assert rig.client.wait("job").status == 6


def test_terminal_after_a_restore(rig: Rig, fifos: Fifos, tmp_path: Path) -> None:
    """The copy of a task with a terminal has a new one; the shell kept its variables."""
    argv = ["/bin/sh", "-c", 'while read a b; do x="$x$a"; echo "[$x]"; done; exit 6']
    other = Fifos(tmp_path / "other")
    with closing(other):
        rig.program("job", *argv, stdio=fifos.terminal, terminal=True)
        fifos.write(b"kept\n")
        fifos.out.until(b"[kept]")
        made = rig.checkpoint("job", exit=True)

        rig.restore("copy", made.image_path, stdio=other.terminal)
        other.write(b"-on\n")
        other.out.until(b"[kept-on]")

        rig.client.kill("copy", signal.SIGKILL)
        assert rig.client.wait("copy").status == 137


SIZE = {"height": 40, "width": 100}


@pytest.mark.parametrize("how", ("ResizePty before Start", "consoleSize"))
def test_size_of_an_exec_before_its_start(rig: Rig, fifos: Fifos, how: str) -> None:
    """An exec begins with the size that its client asked for, by whichever of the two ways."""
    rig.sleeper("job")
    process = {"args": ["/bin/sh", "-c", "stty size"], "cwd": "/", "env": ["PATH=/usr/bin:/bin"]}
    said = {"consoleSize": SIZE} if how == "consoleSize" else {}
    spec = {**process, **said, "user": {"uid": 0, "gid": 0}}
    rig.client.exec("job", "e", spec, fifos.terminal)
    if not said:
        rig.client.resize_pty("job", 100, 40, "e")
    rig.client.start("job", "e")

    assert rig.client.wait("job", "e").status == 0
    assert fifos.out.finish().split() == [b"40", b"100"]
    refused(FailedPrecondition, lambda: rig.client.resize_pty("job", 1, 1, "e"))


def test_size_in_the_spec(rig: Rig, fifos: Fifos) -> None:
    """process.consoleSize is the size that a task's terminal begins with."""
    rig.program(
        "job", "/bin/sh", "-c", "stty size", stdio=fifos.terminal, terminal=True, consoleSize=SIZE
    )

    assert rig.client.wait("job").status == 0
    assert fifos.out.finish().split() == [b"40", b"100"]


def test_size_before_anything_is_typed(rig: Rig, fifos: Fifos) -> None:
    """The size can be set between create and start, as clients do."""
    argv = ["/bin/sh", "-c", "stty size"]
    bundle = str(rig.bundle("job", argv, terminal=True))
    rig.client.create("job", bundle, stdio=fifos.terminal)
    rig.client.resize_pty("job", 66, 22)
    rig.client.start("job")

    assert rig.client.wait("job").status == 0
    assert b"22 66" in fifos.out.finish()
