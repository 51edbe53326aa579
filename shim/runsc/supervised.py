"""runsc commands that get a container's streams and may outlive this process.

The process supervisor is their parent, and that of the sandboxes that they start.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

from shim import failpoints
from shim.config import Timeouts
from shim.errors import DeadlineExceeded, RunscError
from shim.host import command_times, procs
from shim.host.process_id import ProcessId
from shim.host.shielded import shielded
from shim.host.supervisor.protocol import ProcessSupervisor
from shim.model import Value
from shim.runsc import argv
from shim.runsc.argv import CreateArgs, ExecArgs, Global, RestoreArgs, runsc_id
from shim.runsc.container_flags import NO_FLAGS, ContainerFlags
from shim.runsc.containers import Containers
from shim.runsc.failure import failure, last_error
from shim.runsc.run import KILLED_S, UNDYING_REMEDY, Started, undying


class Streams(Value):
    """The descriptors of a container's or exec's standard streams."""

    stdin: int
    stdout: int
    stderr: int


class Supervised:
    """Starts runsc through the process supervisor; `nvproxy` is whether it has that flag."""

    def __init__(
        self,
        runsc: Global,
        containers: Containers,
        supervisor: ProcessSupervisor,
        timeouts: Timeouts,
        *,
        nvproxy: bool,
    ) -> None:
        self._runsc = runsc
        self._containers = containers
        self._supervisor = supervisor
        self._timeouts = timeouts
        self._nvproxy = nvproxy

    async def create(
        self,
        args: CreateArgs,
        streams: Streams,
        *,
        gpu: bool,
        log: Path,
        own: ContainerFlags = NO_FLAGS,
        started: Started | None = None,
    ) -> ProcessId:
        """Create a container and return its sandbox process; `started` gets the runsc process."""
        runsc, timeout_s = self._with(own, gpu=gpu), self._timeouts.create
        with failpoints.around("runsc.create"):
            await self._run(runsc, "create", args.args(), streams, log, timeout_s, started)
        return _sandbox("create", args.pid_file)

    async def restore(
        self,
        args: RestoreArgs,
        streams: Streams,
        *,
        gpu: bool,
        log: Path,
        timeout_s: float,
        own: ContainerFlags = NO_FLAGS,
        started: Started | None = None,
    ) -> ProcessId:
        """Restore a container from an image; return when it runs, before the CUDA thaw."""
        runsc = self._with(own, gpu=gpu)
        with failpoints.around("runsc.restore"):
            await self._run(runsc, "restore", args.args(), streams, log, timeout_s, started)
        return _sandbox("restore", args.pid_file)

    async def start(
        self, task_id: str, streams: Streams, log: Path, own: ContainerFlags = NO_FLAGS
    ) -> None:
        """Start a container that shares a sandbox; it gets its streams here, not at create."""
        self._containers.check(task_id)
        runsc, timeout_s = self._with(own), self._timeouts.create
        with failpoints.around("runsc.start"):
            await self._run(runsc, "start", argv.start(task_id), streams, log, timeout_s)

    async def wait(self, task_id: str, streams: Streams) -> ProcessId:
        """Begin a `runsc wait`, which prints the container's exit status when it exits."""
        self._containers.check(task_id)
        return await self._spawn(self._runsc.argv("wait", runsc_id(task_id)), streams)

    async def wait_restored(self, task_id: str, streams: Streams) -> ProcessId:
        """Begin a `runsc wait` that exits when the sandbox has read all of its image, or ends."""
        self._containers.check(task_id)
        return await self._spawn(self._runsc.argv("wait", *argv.wait_restore(task_id)), streams)

    async def exec(self, args: ExecArgs, streams: Streams, log: Path) -> ProcessId:
        """Begin an attached exec; the runsc process exits with it, with the same exit status."""
        self._containers.check(args.id)
        return await self._spawn(self._runsc.argv("exec", *args.args(), log=str(log)), streams)

    def _with(self, own: ContainerFlags, *, gpu: bool = False) -> Global:
        flags = own.added_to(self._runsc.flags)
        if gpu and self._nvproxy:
            flags.setdefault("nvproxy", "true")
        return self._runsc.with_flags(flags)

    async def _run(
        self,
        runsc: Global,
        command: str,
        args: Sequence[str],
        streams: Streams,
        log: Path,
        timeout_s: float,
        started: Started | None = None,
    ) -> None:
        """Run a command until it exits; on error kill it and its descendants."""
        log.unlink(missing_ok=True)
        child = await self._spawn(runsc.argv(command, *args, log=str(log)), streams)
        try:
            if started is not None:
                started(child.pid, child.start)
            failpoints.reach(f"runsc.{command}", failpoints.BEGUN)
            with command_times.command(f"runsc {command}"):
                async with asyncio.timeout(timeout_s):
                    exited = await self._supervisor.wait(child.pid, child.start)
        except TimeoutError as error:
            await self._kill(child)
            message = f"runsc {command} did not end in {timeout_s:g} s"
            raise DeadlineExceeded(message) from error
        except BaseException:  # cancelled, or its pid could not be recorded
            await self._kill(child)
            raise
        if exited.status != 0:
            raise failure(command, exited.status, last_error(log))

    async def _kill(self, child: ProcessId) -> None:
        """Kill a command with its sandbox, whose pid it writes only at its end.

        Raises:
            DeadlineExceeded: one of these processes does not exit.
        """
        below = procs.kill_tree(child.pid, child.start)
        try:
            await shielded(self._supervisor.wait(child.pid, child.start), deadline_s=KILLED_S)
            # The socket is removed only once no sandbox listens on it.
            await shielded(procs.until_ended(below), deadline_s=KILLED_S)
        except DeadlineExceeded as error:
            left = (pid for pid, start in below if procs.is_alive(pid, start))
            message = f"runsc was interrupted; {undying(next(left, child.pid))}"
            raise DeadlineExceeded(message, remedy=UNDYING_REMEDY) from error

    async def _spawn(self, whole: list[str], streams: Streams) -> ProcessId:
        return await self._supervisor.spawn(
            whole, stdin=streams.stdin, stdout=streams.stdout, stderr=streams.stderr
        )


def _sandbox(command: str, pid_file: str) -> ProcessId:
    """Return the sandbox process, whose pid the command has written."""
    try:
        pid = int(Path(pid_file).read_text("ascii"))
    except (OSError, ValueError) as error:
        raise RunscError(command, 0, "it left no pid file") from error
    return ProcessId(pid=pid, start=procs.start_time(pid) or 0)
