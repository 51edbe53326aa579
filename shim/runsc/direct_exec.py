"""Runs programs in a container by calls to its sentry.

`runsc exec` makes the same two calls, and is a Go program of its own: on 2 idle cores `true` took
33 ms by it and 9 ms by these calls (medians), on 2 busy ones 61 and 20 ms.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Self

from shim import failpoints
from shim.errors import CryoError, DeadlineExceeded, Unavailable
from shim.host import command_times
from shim.host.shielded import ended, shielded
from shim.runsc import statefile, urpc
from shim.runsc.client import Runsc
from shim.runsc.collector import STDERR_LIMIT, STDOUT_LIMIT, Collector
from shim.runsc.exec_request import exec_request
from shim.runsc.failure import no_program
from shim.runsc.run import Completed
from shim.runsc.settings import is_on

_START = "containerManager.ExecuteAsync"
_WAIT = "containerManager.WaitPID"
# How long the sentry may take to start a program that has to be killed.
_BEGIN_S = 2.0
# How long it may take to kill a program in the container: a few runsc commands.
_BREAK_OFF_S = 120.0
# As runsc exec does for a program that a signal has ended.
_SIGNALED = 128
_PID_MAX = 1 << 31
_STATUS_MAX = 1 << 16


class DirectExec:
    """Runs programs in one container, where the sentry and the state file have the known form."""

    def __init__(self, runsc: Runsc, task_id: str) -> None:
        self._runsc = runsc
        self._id = task_id

    async def run(self, argv: Sequence[str], *, timeout_s: float) -> Completed | None:
        """Run a program until it exits; None if it cannot be run this way, and was not started.

        Raises:
            DeadlineExceeded: it did not exit in time, and was killed.
            NotFound: the image has no such program.
            Unavailable: the sandbox exited, or its answer has another form.
        """
        with failpoints.around("runsc.exec"), command_times.command(f"exec {Path(argv[0]).name}"):
            request = self._request(argv)
            if request is None:
                return None
            control = self._runsc.containers.control_socket(self._id)
            with _Output() as output:
                program = _Program(self._runsc, self._id, control, argv[0])
                status = await program.run(request, output.fds, timeout_s)
                return None if status is None else output.completed(status)

    def _request(self, argv: Sequence[str]) -> dict[str, object] | None:
        runsc = self._runsc
        net_raw = is_on(runsc.flags, "net-raw")
        # 20240729 starts them as root, the builds with CUDA steps as the user (both measured).
        as_user = runsc.capabilities.builtin_cuda
        state = b"".join(map(statefile.read, runsc.containers.state_files(self._id)))
        return exec_request(state, argv, as_user=as_user, net_raw=net_raw)


class _Program:
    """One program: its start, its exit, and its end where the caller does not wait for that."""

    def __init__(self, runsc: Runsc, task_id: str, control: Path, name: str) -> None:
        self._runsc = runsc
        self._id = task_id
        self._control = control
        self._name = name

    async def run(
        self, request: dict[str, object], fds: Sequence[int], timeout_s: float
    ) -> int | None:
        """Return its exit status; None if the sentry did not start it."""
        until_s = time.monotonic() + timeout_s
        starting = asyncio.ensure_future(self._start(request, fds, timeout_s + _BEGIN_S))
        try:
            async with asyncio.timeout(timeout_s):
                pid = await asyncio.shield(starting)
                failpoints.reach("runsc.exec", failpoints.BEGUN)
                if pid is None:
                    return None
                waited_s = until_s + _BEGIN_S - time.monotonic()
                return await self._exit_status(str(request["ContainerID"]), pid, waited_s)
        except TimeoutError as error:
            await shielded(self._break_off(starting), deadline_s=_BREAK_OFF_S)
            message = f"{self._name} did not exit in {timeout_s:g} s"
            raise DeadlineExceeded(message) from error
        except BaseException:
            await shielded(self._break_off(starting), deadline_s=_BREAK_OFF_S)
            raise

    async def _start(
        self, request: dict[str, object], fds: Sequence[int], timeout_s: float
    ) -> int | None:
        try:
            pid = await urpc.call(self._control, _START, request, timeout_s=timeout_s, fds=fds)
        except urpc.NotSent:
            return None
        except urpc.CallFailed as error:
            if (missing := no_program(self._name, error.message)) is not None:
                raise missing from error
            return None
        if type(pid) is not int or not 0 < pid < _PID_MAX:
            message = f"the sentry started {self._name} and returned {str(pid)[:32]} as its pid"
            raise Unavailable(message)
        return pid

    async def _exit_status(self, container: str, pid: int, timeout_s: float) -> int:
        argument = {"PID": pid, "CID": container}
        status = await urpc.call(self._control, _WAIT, argument, timeout_s=timeout_s)
        if type(status) is not int or not 0 <= status < _STATUS_MAX or os.WIFSTOPPED(status):
            message = f"the sentry returned {str(status)[:32]} as the exit status of {self._name}"
            raise Unavailable(message)
        if os.WIFSIGNALED(status):
            return _SIGNALED + os.WTERMSIG(status)
        return os.WEXITSTATUS(status)

    async def _break_off(self, starting: asyncio.Future[int | None]) -> None:
        """Kill the program, after waiting briefly for the sentry to start it."""
        await ended(starting, _BEGIN_S)
        if not starting.done():
            starting.cancel()
            await ended(starting)
        if starting.cancelled() or starting.exception() is not None:
            return
        if pid := starting.result():
            with contextlib.suppress(CryoError):  # the sandbox is gone with its processes
                await self._runsc.end(self._id, pid)


class _Output:
    """The streams of a program: nothing to read, and a pipe for each of its outputs."""

    def __init__(self) -> None:
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as stack:
            nothing = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
            stack.callback(os.close, nothing)
            out, out_end = stack.enter_context(_pipe())
            err, err_end = stack.enter_context(_pipe())
            self._out, self._err = Collector(out, STDOUT_LIMIT), Collector(err, STDERR_LIMIT)
            # In this order, before the pipes are closed.
            stack.callback(self._err.finish)
            stack.callback(self._out.finish)
            self.fds = (nothing, out_end, err_end)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_raised: object) -> None:
        self._stack.close()

    def completed(self, status: int) -> Completed:
        """Return the result of the program once it has exited."""
        return Completed(status=status, stdout=self._out.finish(), stderr=self._err.finish())


@contextlib.contextmanager
def _pipe() -> Iterator[tuple[int, int]]:
    ends = os.pipe2(os.O_CLOEXEC)
    try:
        yield ends
    finally:
        for fd in ends:
            os.close(fd)
