"""An exec: a process added to a running container by an attached `runsc exec`."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from collections.abc import Mapping
from datetime import datetime
from functools import partial
from pathlib import Path
from signal import SIGKILL
from typing import Any

import msgspec

from shim.errors import (
    CryoError,
    DeadlineExceeded,
    IllegalState,
    InvalidArgument,
    NotFound,
)
from shim.host import procs
from shim.host.exit_status import SIGKILL_STATUS, UNKNOWN_STATUS
from shim.host.oserror import typed
from shim.host.process_id import ProcessId
from shim.host.shielded import shielded
from shim.model import Exit, ProcessView, Stdio, TaskRef, check_id, utcnow
from shim.oci.terminal import console_size
from shim.runsc.argv import ExecArgs
from shim.runsc.client import Runsc
from shim.runsc.failure import failure, last_error
from shim.state import TaskState
from shim.task.context import Context
from shim.task.pidpipe import PidPipe
from shim.task.process import Process, exit_of, until_killed
from shim.task.record import ExecRecord
from shim.task.streams import ExecStreams

_log = logging.getLogger(__name__)
_LAST_SIGNAL = 64
# The pid of an exec that was not run; 0 is that of one that has not been started.
_NO_PID = 1


def check_signal(number: int) -> None:
    """Check a signal's number.

    Raises:
        InvalidArgument: there is no such signal.
    """
    if not 0 < number <= _LAST_SIGNAL:
        message = f"there is no signal {number}"
        raise InvalidArgument(message, remedy=f"use a number from 1 to {_LAST_SIGNAL}")


class Exec:
    """One exec."""

    def __init__(
        self,
        context: Context,
        runsc: Runsc,
        ref: TaskRef,
        exec_id: str,
        stdio: Stdio,
        folder: Path,
    ) -> None:
        check_id("exec id", exec_id)
        self._context = context
        self._runsc = runsc
        self._ref = ref
        self._folder = folder
        # Start was called and did not fail before runsc ran; set before the first await.
        self._begun = False
        self._aborted = asyncio.Event()
        # Its Start failed, and the processes that it started are being killed.
        self._abandoned = False
        self._spec = folder / f"exec-{exec_id}.json"
        self._log = folder / f"exec-{exec_id}.log"
        self.record = ExecRecord(id=exec_id, stdio=stdio)
        self.state = TaskState.CREATED
        self.streams = ExecStreams(context.supervisor, ref, exec_id, stdio, folder)
        self.process = Process(
            f"process {exec_id} of task {ref}", context.background, self.streams, self._publish
        )

    def _publish(self, exit_: Exit) -> None:
        self.state = TaskState.STOPPED
        self.record = msgspec.structs.replace(self.record, exit=exit_)
        self._context.publish_event(
            "/tasks/exit",
            self._ref,
            id=self.record.id,
            pid=self.record.guest_pid,
            exit_status=exit_.status,
            exited_at=exit_.at,
        )

    def write(self, process: Mapping[str, Any]) -> None:
        """Store the OCI process object for `start`.

        Raises:
            CryoError: it cannot be written.
        """
        data = {**process, "terminal": self.record.stdio.terminal}
        self.streams.suggest_size(console_size(process))
        try:
            self._spec.write_text(json.dumps(data), "utf-8")
        except OSError as error:
            raise typed(error, f"write {self._spec}") from error

    def view(self, bundle: str) -> ProcessView:
        """Describe it."""
        return ProcessView(
            id=self._ref.id,
            exec_id=self.record.id,
            bundle=bundle,
            pid=self.record.guest_pid,
            state=self.state,
            stdio=self.record.stdio,
            exit=self.process.exit.value,
        )

    @property
    def is_starting(self) -> bool:
        """Whether a Start of it is under way."""
        return self._begun and self.state is TaskState.CREATED

    # -- start ---------------------------------------------------------------------------------

    async def start(self, *, idle: bool = False) -> int:
        """Run it; return its pid in the container. If `idle`, it exits at once with success.

        Raises:
            IllegalState: it was started before, or was killed meanwhile.
            CryoError: runsc could not start the program; it counts as exited.
            DeadlineExceeded: runsc did not report its start in time.
        """
        if self._begun or self.state is not TaskState.CREATED:
            state = "being started" if self.is_starting else self.state
            message = f"process {self.record.id} of task {self._ref} is {state}"
            raise IllegalState(message, remedy="add another with a new exec id")
        self._begun = True
        try:
            async with self.process.starting():
                pid = await (self._start_nothing() if idle else self._start())
        except BaseException:  # refused, timed out, killed, or cancelled
            await shielded(self._fail(), deadline_s=None)  # its waits are bounded
            raise
        if idle:
            await self.process.end(Exit(status=0, at=utcnow()))
        return pid

    async def _start_nothing(self) -> int:
        await self.streams.end_unused()
        self._context.publish_event(
            "/tasks/exec-started", self._ref, exec_id=self.record.id, pid=_NO_PID
        )
        return _NO_PID

    async def _start(self) -> int:
        with PidPipe(self._folder / f"exec-{self.record.id}.pid") as pipe:
            args = ExecArgs(
                id=self._ref.id,
                process=str(self._spec),
                internal_pid_file=str(pipe.path),
                console_socket=await self.streams.listen(),
            )
            async with self.streams.opened() as streams:
                runner = await self._runsc.supervised.exec(args, streams, self._log)
                self._note_runner(runner)
            try:
                pid = await self._first_of(pipe)
            except BaseException:
                self._abandoned = True
                await shielded(self._abandon(runner, pipe), deadline_s=None)
                raise
        self.streams.started()
        self.record = msgspec.structs.replace(self.record, guest_pid=pid)
        self._context.publish_event(
            "/tasks/exec-started", self._ref, exec_id=self.record.id, pid=pid
        )
        if self.state is TaskState.CREATED:
            self.state = TaskState.RUNNING
        return pid

    def _note_runner(self, runner: ProcessId) -> None:
        self.record = msgspec.structs.replace(
            self.record, runner_pid=runner.pid, runner_start=runner.start
        )
        self.process.watch(partial(self._exit_of, runner))

    async def _exit_of(self, runner: ProcessId) -> Exit:
        """Wait for the exit of `runsc exec`, which has the program's status.

        If `runsc exec` itself was killed, for lack of memory for example, kill the program too: it
        would run on without an owner.
        """
        exit_ = await exit_of(self._context.supervisor, runner)
        killed = exit_.status in (SIGKILL_STATUS, UNKNOWN_STATUS)
        if killed and self.record.guest_pid and self.process.ended.value is None:
            await self._kill_program(self.record.guest_pid)
        return exit_

    async def _first_of(self, pipe: PidPipe) -> int:
        """Wait for the program's pid, for runsc's exit without one, or for a kill."""
        start, name = self._context.background.start, self.process.name
        number = start(pipe.read(), name=f"pid of {name}")
        others = [
            start(self.process.ended.get(), name=f"end of {name}"),
            start(self._aborted.wait(), name=f"abort of {name}"),
        ]
        timeout_s = self._context.config.timeouts.command
        try:
            await asyncio.wait(
                {number, *others}, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED
            )
            if self._aborted.is_set():
                message = (
                    f"process {self.record.id} of task {self._ref} was killed during its start"
                )
                raise IllegalState(message, remedy="delete it, and add another")
            # Also if the program has already exited: its pid was written before that.
            if pid := pipe.take():
                return pid
            if self.process.ended.value is None and not number.done():
                message = f"{self.process.name} did not start in {timeout_s:g} s"
                remedy = "raise timeouts.command, or check that the sandbox still responds"
                raise DeadlineExceeded(message, remedy=remedy)
            raise self._refusal()
        finally:
            for task in (number, *others):
                task.cancel()

    async def _abandon(self, runner: ProcessId, pipe: PidPipe) -> None:
        """Kill `runsc exec` and the program: the first alone would leave the second running."""
        known = pipe.take()
        if known:
            await self._kill_program(known)
        if not procs.is_alive(runner.pid, runner.start):
            return
        procs.kill(runner.pid, runner.start, SIGKILL)
        with contextlib.suppress(DeadlineExceeded):  # it is still watched
            timeout_s = self._context.config.timeouts.command
            await until_killed(f"runsc exec of {self.process.name}", runner, timeout_s)
        if not known and (number := pipe.take()):  # written just before its exit
            await self._kill_program(number)

    async def _kill_program(self, number: int) -> None:
        with contextlib.suppress(CryoError):  # it has exited by itself, or its sandbox has
            await self._runsc.kill(self._ref.id, SIGKILL, pid=number)

    async def _fail(self) -> None:
        """Clean up a failed Start: the exec has exited if runsc ran, else it is as before."""
        if not self.record.runner_pid:
            self._begun = False
            await self.process.attempt(self.streams.close)
            return
        runner = ProcessId(pid=self.record.runner_pid, start=self.record.runner_start)
        with contextlib.suppress(DeadlineExceeded):  # it is still watched
            await self.process.killed(runner, self._context.config.timeouts.command)

    def _refusal(self) -> CryoError:
        ended = self.process.ended.value
        return failure("exec", ended.status if ended else 0, last_error(self._log))

    # -- what else is done to it ---------------------------------------------------------------

    async def ended_with_sandbox(self, at: datetime) -> None:
        """Publish that it was killed with its sandbox."""
        if self._begun:
            await self.process.end(Exit(status=SIGKILL_STATUS, at=at))

    async def wait(self) -> Exit:
        """Wait for its exit."""
        return await self.process.exit.get()

    async def kill(self, signal: int) -> None:
        """Send it a signal; KILL aborts its Start as well.

        Raises:
            NotFound: it is not running.
        """
        check_signal(signal)
        if self.is_starting and signal == SIGKILL:
            self._aborted.set()
            return
        if self.state is not TaskState.RUNNING:
            message = f"process {self.record.id} of task {self._ref} is not running"
            raise NotFound(message, remedy="delete it, or start it first")
        if not self.record.guest_pid:
            self._kill_runner(signal)
            return
        await self._runsc.kill(self._ref.id, signal, pid=self.record.guest_pid)

    def _kill_runner(self, signal: int) -> None:
        """Signal the `runsc exec` of a program whose pid an earlier owner did not record.

        runsc forwards all signals to the program but KILL, after which that may keep running.
        """
        _log.warning(
            "%s: its pid is unknown; sending signal %d to runsc", self.process.name, signal
        )
        procs.kill(self.record.runner_pid, self.record.runner_start, signal)

    async def delete(self) -> None:
        """Remove what belongs to it.

        Raises:
            IllegalState: it is running, or being started.
            DeadlineExceeded: its Start has failed, and its `runsc exec` does not exit.
        """
        if self.state is TaskState.RUNNING:
            message = f"process {self.record.id} of task {self._ref} is running"
            raise IllegalState(message, remedy="kill it first")
        if self._abandoned:
            runner = ProcessId(pid=self.record.runner_pid, start=self.record.runner_start)
            # The time that ending it may take: two commands of runsc, and the exit between them.
            await self.process.killed(runner, 3 * self._context.config.timeouts.command)
        elif self.is_starting and self.process.ended.value is None:
            message = f"process {self.record.id} of task {self._ref} is being started"
            raise IllegalState(message, remedy="wait for its start, or kill it with KILL first")
        self._begun = True  # a Start from here on is refused
        await self.process.end(Exit(status=0, at=utcnow()))
        await self.streams.close()
        for path in (self._spec, self._log):
            path.unlink(missing_ok=True)

    def detach(self) -> None:
        """Stop watching: the owner exits, the process keeps running."""
        self.process.detach()

    async def adopt(self, record: ExecRecord) -> None:
        """Adopt an exec that an earlier owner started."""
        self.record = record
        if record.exit is not None:
            self._begun = True
            self.state = TaskState.STOPPED
            self.process.set_exited(record.exit)
        elif record.runner_pid:
            self._begun = True
            self.state = TaskState.RUNNING
            await self.streams.adopt()
            runner = ProcessId(pid=record.runner_pid, start=record.runner_start)
            self.process.watch(partial(self._exit_of, runner))
