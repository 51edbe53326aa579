"""The command line attached to real processes: streams, terminals, statuses, signals."""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterator

from tests.real.helpers_rig import WAIT_S, Rig

SIZE = struct.pack("HHHH", 25, 80, 0, 0)


@contextlib.contextmanager
def cryo(rig: Rig, *argv: str, terminal: int | None = None) -> Iterator[subprocess.Popen[bytes]]:
    """Run the command line as a program; it does not outlive the test."""
    stream = subprocess.PIPE if terminal is None else terminal
    command = [sys.executable, "-m", "shim.entry.cli", "-a", rig.sim.address, *argv]
    with subprocess.Popen(command, stdin=stream, stdout=stream, stderr=stream) as program:
        try:
            yield program
        finally:
            program.kill()


class Screen:
    """A terminal of 80 by 25, seen from outside."""

    def __init__(self) -> None:
        """Open it."""
        self._master, self.slave = os.openpty()
        fcntl.ioctl(self.slave, termios.TIOCSWINSZ, SIZE)

    def type(self, text: str) -> None:
        """Type something."""
        os.write(self._master, text.encode())

    def until(self, text: bytes) -> bytes:
        """Read until something is seen."""
        seen, deadline = b"", time.monotonic() + WAIT_S
        while text not in seen:
            assert time.monotonic() < deadline, seen
            if select.select([self._master], [], [], 0.1)[0]:
                seen += os.read(self._master, 4096)
        return seen

    def close(self) -> None:
        """Close both ends."""
        os.close(self._master)
        os.close(self.slave)


@contextlib.contextmanager
def screen() -> Iterator[Screen]:
    """Give a terminal."""
    made = Screen()
    try:
        yield made
    finally:
        made.close()


def test_run_is_the_process(rig: Rig) -> None:
    """Input, both outputs and the status are those of the container's process; --rm forgets it."""
    bundle = rig.bundle("a", ["/bin/sh", "-c", "echo out; echo err >&2; cat; exit 7"])
    with cryo(rig, "run", "--rm", "--bundle", str(bundle), "a") as program:
        out, err = program.communicate(b"x" * 200_000, timeout=WAIT_S)

    assert program.returncode == 7
    assert out == b"out\n" + b"x" * 200_000
    assert err == b"err\n"
    assert rig.client.list() == []


def test_a_signal_is_for_the_process(rig: Rig) -> None:
    """Arguments of `cryo run` reach the container's process."""
    bundle = rig.bundle(
        "a", ["/bin/sh", "-c", "trap 'exit 9' TERM; echo in; while :; do sleep 0.1; done"]
    )
    with cryo(rig, "run", "--bundle", str(bundle), "a") as program:
        assert program.stdout is not None
        assert program.stdout.readline() == b"in\n"
        program.send_signal(signal.SIGTERM)
        assert program.wait(WAIT_S) == 9
    rig.client.delete("a")


def test_a_terminal_of_a_task(rig: Rig) -> None:
    """With -t the process has a terminal of our size, which takes keys and gives output."""
    bundle = rig.bundle("a", ["/bin/sh"], terminal=True)
    with (
        screen() as seen,
        cryo(
            rig, "run", "-t", "--rm", "--bundle", str(bundle), "a", terminal=seen.slave
        ) as program,
    ):
        seen.until(b"# ")
        seen.type("stty size; [ -t 0 ] && echo is-$((1+1))\n")
        text = seen.until(b"is-2")
        seen.type("exit 5\n")

        assert b"25 80" in text
        assert program.wait(WAIT_S) == 5


def test_a_terminal_of_an_exec(rig: Rig) -> None:
    """The same for another process in a running task; its exit is reported at once."""
    rig.sleeper("a")
    with (
        screen() as seen,
        cryo(rig, "tasks", "exec", "-t", "a", "sh", terminal=seen.slave) as program,
    ):
        seen.until(b"# ")
        seen.type("stty size; [ -t 0 ] && echo is-$((1+1))\n")
        text = seen.until(b"is-2")
        seen.type("exit 6\n")
        begun = time.monotonic()

        assert b"25 80" in text
        assert program.wait(WAIT_S) == 6
        assert time.monotonic() - begun < 1.5


def test_exec_is_the_process(rig: Rig) -> None:
    """Input, outputs and status of an exec are its own."""
    rig.sleeper("a")
    with cryo(
        rig, "tasks", "exec", "-e", "A=b", "a", "sh", "-c", "echo $A; cat; exit 3"
    ) as program:
        out, err = program.communicate(b"in\n", timeout=WAIT_S)

    assert (program.returncode, out, err) == (3, b"b\nin\n", b"")
    assert rig.client.list()[0].execs == ()
