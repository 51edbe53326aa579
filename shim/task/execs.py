"""A process added to a running task: `runsc exec`, attached, run by the keeper."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec

from shim.checkpoint.worker import settled
from shim.errors import (
    CryoError,
    DeadlineExceeded,
    IllegalState,
    InvalidArgument,
    NotFound,
    Unavailable,
)
from shim.host import procs
from shim.model import Exit, ProcessView, Stdio, TaskRef, check_id, utcnow
from shim.runsc.argv import ExecArgs
from shim.runsc.client import Born, Runsc, last_error
from shim.runsc.failure import failure
from shim.state import TaskState
from shim.task.context import Context
from shim.task.once import Once
from shim.task.pidpipe import PidPipe
from shim.task.record import ExecRecord
from shim.task.streams import ExecStreams

_log = logging.getLogger(__name__)
_KILL = 9
_SIGKILL_STATUS = 137
_LAST_SIGNAL = 64


def check_signal(number: int) -> None:
    """Check a signal's number.

    Raises:
        InvalidArgument: there is no such signal.
    """
    if not 0 < number <= _LAST_SIGNAL:
        message = f"there is no signal {number}"
        raise InvalidArgument(message, remedy=f"use a number from 1 to {_LAST_SIGNAL}")


class Exec:
    """One added process."""

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
        self._exit: Once[Exit] = Once()
        self._watching: asyncio.Task[None] | None = None
        self._told = asyncio.Event()
        self._told.set()
        self._spec = folder / f"exec-{exec_id}.json"
        self._log = folder / f"exec-{exec_id}.log"
        self.record = ExecRecord(id=exec_id, stdio=stdio)
        self.state = TaskState.CREATED
        self.streams = ExecStreams(context.keeper, ref, exec_id, stdio, folder)

    def write(self, process: Mapping[str, Any]) -> None:
        """Keep the OCI process object for `start`."""
        data = {**process, "terminal": self.record.stdio.terminal}
        self._spec.write_text(json.dumps(data), "utf-8")

    def view(self, bundle: str) -> ProcessView:
        """Describe it."""
        return ProcessView(
            id=self._ref.id,
            exec_id=self.record.id,
            bundle=bundle,
            pid=self.record.guest_pid,
            state=self.state,
            stdio=self.record.stdio,
            exit=self._exit.value,
        )

    async def start(self) -> int:
        """Run it; return its number in the container.

        Raises:
            IllegalState: it was started before.
            CryoError: runsc could not start the program; it counts as ended.
            DeadlineExceeded: runsc did not say in time that it has.
        """
        if self.state is not TaskState.CREATED:
            message = f"process {self.record.id} of task {self._ref} is {self.state}"
            raise IllegalState(message, remedy="add another with an exec id of its own")
        # The news of the start comes before that of an exit, however soon that is.
        self._told.clear()
        try:
            return await self._start()
        finally:
            self._told.set()

    async def _start(self) -> int:
        with PidPipe(self._folder / f"exec-{self.record.id}.pid") as pipe:
            args = ExecArgs(
                id=self._ref.id,
                process=str(self._spec),
                internal_pid_file=str(pipe.path),
                console_socket=await self.streams.listen(),
            )
            async with self.streams.opened() as streams:
                runner = await self._runsc.exec_spawn(args, streams, self._log)
            self._watching = asyncio.create_task(self._watch(runner))
            try:
                pid = await self._first(pipe)
            except BaseException:  # refused, too late, or the caller has left
                self._told.set()
                await settled(asyncio.ensure_future(self._abandon(runner, pipe)))
                raise
        self.record = msgspec.structs.replace(
            self.record, runner_pid=runner.pid, runner_start=runner.start, guest_pid=pid
        )
        self._context.tell("/tasks/exec-started", self._ref, exec_id=self.record.id, pid=pid)
        return pid

    async def _first(self, pipe: PidPipe) -> int:
        """Wait for the program's number, or for runsc to end without one."""
        reading = asyncio.create_task(pipe.read())
        ending = asyncio.create_task(self._exit.get())
        timeout_s = self._context.config.timeouts.command
        try:
            async with asyncio.timeout(timeout_s):
                await asyncio.wait({reading, ending}, return_when=asyncio.FIRST_COMPLETED)
            if reading.done() and (pid := reading.result()):
                self.state = TaskState.RUNNING if self.state is TaskState.CREATED else self.state
                return pid
            raise self._refusal()
        except TimeoutError as error:
            message = f"process {self.record.id} of task {self._ref} did not start: {timeout_s:g} s"
            raise DeadlineExceeded(message) from error
        finally:
            reading.cancel()
            ending.cancel()

    async def _abandon(self, runner: Born, pipe: PidPipe) -> None:
        """End what was begun, inside the container too: killing `runsc exec` leaves that behind."""
        if self._exit.value is not None:
            return
        if number := pipe.take():
            with contextlib.suppress(CryoError):  # it has ended by itself
                await self._runsc.kill(self._ref.id, _KILL, pid=number)
        procs.kill(runner.pid, runner.start, _KILL)
        if self._watching is not None:
            await self._watching

    def _refusal(self) -> CryoError:
        status = self._exit.value.status if self._exit.value else 0
        return failure("exec", status, last_error(self._log))

    async def _watch(self, runner: Born) -> None:
        try:
            ended = await self._context.keeper.wait(runner.pid, runner.start)
        except Unavailable:
            return  # the sandbox's own end will tell
        await self._end(Exit(status=ended.status, at=ended.at))

    async def _end(self, exit_: Exit) -> None:
        """Note the end; its client sees the end of the output before it hears of it."""
        if self.state is TaskState.STOPPED:
            return
        self.state = TaskState.STOPPED
        self.record = msgspec.structs.replace(self.record, exit=exit_)
        try:
            await self.streams.close()
        except (CryoError, OSError) as error:
            _log.warning("process %s of %s: %s", self.record.id, self._ref, error)
        self._exit.put(exit_)
        await self._told.wait()
        self._context.tell(
            "/tasks/exit",
            self._ref,
            id=self.record.id,
            pid=self.record.guest_pid,
            exit_status=exit_.status,
            exited_at=exit_.at,
        )

    async def ended_with_sandbox(self, at: datetime) -> None:
        """Note that it is over because everything is."""
        if self.state is TaskState.RUNNING:
            await self._end(Exit(status=_SIGKILL_STATUS, at=at))
        await self.streams.close()

    async def wait(self) -> Exit:
        """Wait for its end."""
        return await self._exit.get()

    async def kill(self, signal: int) -> None:
        """Signal it.

        Raises:
            NotFound: it is not running.
        """
        if self.state is not TaskState.RUNNING:
            message = f"process {self.record.id} of task {self._ref} is not running"
            raise NotFound(message, remedy="delete it, or start it first")
        check_signal(signal)
        await self._runsc.kill(self._ref.id, signal, pid=self.record.guest_pid)

    async def delete(self) -> None:
        """Forget it.

        Raises:
            IllegalState: it is running.
        """
        if self.state is TaskState.RUNNING:
            message = f"process {self.record.id} of task {self._ref} is running"
            raise IllegalState(message, remedy="kill it first")
        if self.state is TaskState.CREATED:
            await self._end(Exit(status=0, at=utcnow()))
        await self.streams.close()
        for path in (self._spec, self._log):
            path.unlink(missing_ok=True)

    def let_go(self) -> None:
        """Stop watching: the owner ends, the process runs on."""
        if self._watching is not None:
            self._watching.cancel()

    async def adopt(self, record: ExecRecord) -> None:
        """Take over what an earlier owner had started."""
        self.record = record
        if record.exit is not None:
            self.state = TaskState.STOPPED
            self._exit.put(record.exit)
        elif record.runner_pid:
            self.state = TaskState.RUNNING
            await self.streams.adopt()
            runner = Born(pid=record.runner_pid, start=record.runner_start)
            self._watching = asyncio.create_task(self._watch(runner))
