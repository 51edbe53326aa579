"""Runs all short-lived commands: own process group, deadline, bounded output, reaped.

A command ends when its process exits: its output is what the pipes hold at that moment. EOF is not
awaited, because a descendant may keep the pipe open (the sentry does).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from shim.errors import DeadlineExceeded, InvalidArgument, Unavailable
from shim.host import command_times, procstat
from shim.host.environment import CHILD_UMASK, environment
from shim.host.procs import start_time, wait_pidfd
from shim.host.shielded import shielded
from shim.model import Value
from shim.runsc.collector import STDERR_LIMIT, STDOUT_LIMIT, Collector

Started = Callable[[int, int], None]
"""Called with a child's pid and start time, which together identify it."""


# How long a killed process may take to exit.
KILLED_S = 10.0
_STATES = {
    "D": "uninterruptible sleep: a device or a filesystem does not answer",
    "T": "stopped",
    "t": "stopped by a debugger",
}
UNDYING_REMEDY = (
    "check the kernel's log (dmesg) and /proc/PID/stack for the device or mount that hangs: the "
    "process exits when that responds, or is unmounted by force"
)

_log = logging.getLogger(__name__)
_children: set[int] = set()
# Killed, not yet exited, and waited for.
_uncollected: dict[int, asyncio.Future[None]] = {}


def is_child(pid: int) -> bool:
    """Return whether this module reaps the child with this pid."""
    return pid in _children or pid in _uncollected


class Completed(Value):
    """The result of a command. Output beyond the limit was read and dropped."""

    status: int
    stdout: bytes
    stderr: bytes


def _spawn(
    argv: Sequence[str], env: Mapping[str, str] | None, cwd: str | None
) -> subprocess.Popen[bytes]:
    try:
        return subprocess.Popen(
            list(argv),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=dict(environment() if env is None else env),
            cwd=cwd,
            process_group=0,
            umask=CHILD_UMASK,
        )
    except FileNotFoundError as error:
        message = f"{argv[0]}: not found"
        raise Unavailable(message, remedy="install it, or name its path in config.toml") from error
    except (OSError, ValueError) as error:  # ValueError: a NUL in an argument
        message = f"{argv[0]}: {getattr(error, 'strerror', None) or error}"
        raise InvalidArgument(message) from error


async def _end(process: subprocess.Popen[bytes]) -> None:
    """Kill the group and reap, however often the caller is cancelled meanwhile.

    Raises:
        DeadlineExceeded: the process does not exit; it is reaped when it does.
    """
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    try:
        await shielded(wait_pidfd(process.pid), deadline_s=KILLED_S, doing="the end of a command")
    finally:
        # Also when the wait raises a cancellation: the process has exited then.
        if process.poll() is None:
            _collect_later(process)


def _collect_later(process: subprocess.Popen[bytes]) -> None:
    """Reap a killed process that has not exited yet, as soon as it exits."""
    task = asyncio.ensure_future(wait_pidfd(process.pid))
    _uncollected[process.pid] = task

    def collect(_ended: asyncio.Future[None]) -> None:
        _uncollected.pop(process.pid, None)
        # Does not wait: the process may still run when the event loop closes.
        if process.poll() is not None:
            _log.info("process %d, which was killed, has now exited", process.pid)

    task.add_done_callback(collect)


def undying(pid: int) -> str:
    """Describe a process that was killed and still runs."""
    found = procstat.read(pid)
    state = found.state if found is not None else "unknown"
    meaning = f" ({_STATES[state]})" if state in _STATES else ""
    return f"its process {pid} was killed and does not exit: it is in state {state}{meaning}"


async def run(
    argv: Sequence[str],
    *,
    timeout_s: float,
    env: Mapping[str, str] | None = None,
    cwd: str | None = None,
    stdout_limit: int = STDOUT_LIMIT,
    started: Started | None = None,
    name: str = "",
) -> Completed:
    """Run a command, return its status and output; `started` receives its pid and start time.

    Its time is reported under `name`, by default that of the program.

    Raises:
        DeadlineExceeded: it did not exit in `timeout_s`; its process group was killed and reaped.
            A process that does not exit in `KILLED_S` is named, and reaped when it does.
        Unavailable: no such program.
        InvalidArgument: the program cannot be started.
    """
    with command_times.command(name or Path(argv[0]).name):
        return await _run(argv, timeout_s, env, cwd, stdout_limit, started)


async def _run(
    argv: Sequence[str],
    timeout_s: float,
    env: Mapping[str, str] | None,
    cwd: str | None,
    stdout_limit: int,
    started: Started | None,
) -> Completed:
    process = _spawn(argv, env, cwd)
    assert process.stdout is not None  # noqa: S101 - PIPE was asked for
    assert process.stderr is not None  # noqa: S101 - PIPE was asked for
    _children.add(process.pid)
    with process.stdout, process.stderr:
        out = Collector(process.stdout.fileno(), stdout_limit)
        err = Collector(process.stderr.fileno(), STDERR_LIMIT)
        try:
            if started is not None:
                started(process.pid, start_time(process.pid) or 0)
            async with asyncio.timeout(timeout_s):
                await wait_pidfd(process.pid)
            status = process.wait()
        except TimeoutError as error:
            message = f"{Path(argv[0]).name} did not end in {timeout_s:g} s"
            try:
                await _end(process)
            except DeadlineExceeded as late:
                message = f"{message}; {undying(process.pid)}"
                raise DeadlineExceeded(message, remedy=UNDYING_REMEDY) from late
            raise DeadlineExceeded(message) from error
        except BaseException:  # cancelled, or `started` could not record the process
            try:
                await _end(process)
            except DeadlineExceeded:
                _log.error("%s was interrupted; %s", Path(argv[0]).name, undying(process.pid))
            raise
        finally:
            _children.discard(process.pid)
            stdout, stderr = out.finish(), err.finish()
    return Completed(status=status, stdout=stdout, stderr=stderr)
