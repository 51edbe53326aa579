"""The only spawner of short-lived commands: own process group, deadline, bounded output, reaped.

A child that keeps our pipe (the sentry does) must not hang us, so a command has ended when its
process has ended: what the pipes hold at that moment is its output, and EOF is not waited for.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
from collections.abc import Callable, Coroutine, Mapping, Sequence
from pathlib import Path
from typing import Any

from shim.errors import DeadlineExceeded, InvalidArgument, Unavailable
from shim.host.environment import CHILD_UMASK, environment
from shim.host.procs import start_time, wait_pidfd
from shim.model import Value

STDOUT_LIMIT = 1 << 20
STDERR_LIMIT = 64 << 10
_CHUNK = 64 << 10

Started = Callable[[int, int], None]
"""Called with a child's pid and start time, which together name it for ever."""


_children: set[int] = set()


def is_child(pid: int) -> bool:
    """Tell whether a child of this process is one that is collected here."""
    return pid in _children


class Completed(Value):
    """How a command ended. Output beyond the limit was read and dropped."""

    status: int
    stdout: bytes
    stderr: bytes


class _Collector:
    """Reads a pipe as data comes and keeps the first `limit` bytes."""

    def __init__(self, fd: int, limit: int) -> None:
        self._fd = fd
        self._limit = limit
        self._kept = bytearray()
        self._loop = asyncio.get_running_loop()
        os.set_blocking(fd, False)
        self._loop.add_reader(fd, self._read)

    def _read(self) -> bool:
        """Take one chunk; False at the end of what there is."""
        try:
            data = os.read(self._fd, _CHUNK)
        except BlockingIOError:
            return False
        if not data:
            self._loop.remove_reader(self._fd)
            return False
        self._kept += data[: max(0, self._limit - len(self._kept))]
        return True

    def finish(self) -> bytes:
        """Take what is there now and stop; a writer that lives on is not waited for."""
        taken = 0
        while taken < self._limit and self._read():
            taken += _CHUNK
        self._loop.remove_reader(self._fd)
        return bytes(self._kept)


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
    """Kill the group and reap, however often the caller is cancelled meanwhile."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    waiting = asyncio.ensure_future(wait_pidfd(process.pid))
    cancelled: asyncio.CancelledError | None = None
    while not waiting.done():
        try:
            await asyncio.wait({waiting})
        except asyncio.CancelledError as error:
            cancelled = error
    waiting.exception()  # whatever it was: the process was killed, and its end is waited for
    process.wait()
    if cancelled is not None:
        raise cancelled


async def to_its_end(work: Coroutine[Any, Any, None]) -> None:
    """Wait for work that must not be broken off, however often the caller is cancelled."""
    task = asyncio.ensure_future(work)
    while not task.done():
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.wait({task})
    task.result()


async def run(
    argv: Sequence[str],
    *,
    timeout_s: float,
    env: Mapping[str, str] | None = None,
    cwd: str | None = None,
    stdout_limit: int = STDOUT_LIMIT,
    started: Started | None = None,
) -> Completed:
    """Run a command to its end and return its status and output; `started` hears who it is.

    Raises:
        DeadlineExceeded: it did not end in `timeout_s`; its process group was killed and reaped.
        Unavailable: no such program.
        InvalidArgument: the program cannot be started.
    """
    process = _spawn(argv, env, cwd)
    assert process.stdout is not None  # noqa: S101 - PIPE was asked for
    assert process.stderr is not None  # noqa: S101 - PIPE was asked for
    _children.add(process.pid)
    with process.stdout, process.stderr:
        out = _Collector(process.stdout.fileno(), stdout_limit)
        err = _Collector(process.stderr.fileno(), STDERR_LIMIT)
        try:
            if started is not None:
                started(process.pid, start_time(process.pid) or 0)
            async with asyncio.timeout(timeout_s):
                await wait_pidfd(process.pid)
            status = process.wait()
        except TimeoutError as error:
            await _end(process)
            message = f"{Path(argv[0]).name} did not end in {timeout_s:g} s"
            raise DeadlineExceeded(message) from error
        except BaseException:  # cancelled, or `started` could not write down who it is
            await _end(process)
            raise
        finally:
            _children.discard(process.pid)
            stdout, stderr = out.finish(), err.finish()
    return Completed(status=status, stdout=stdout, stderr=stderr)
