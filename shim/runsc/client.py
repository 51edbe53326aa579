"""One coroutine per runsc command; each first checks that exactly this container exists."""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable
from pathlib import Path

from shim import failpoints
from shim.config import Config
from shim.errors import CryoError, NotFound, Unavailable
from shim.host.process_id import ProcessId
from shim.host.shielded import shielded
from shim.host.supervisor.protocol import ProcessSupervisor
from shim.model import Stats
from shim.runsc import argv, control, sandbox_program, statefile
from shim.runsc.argv import CheckpointArgs, ExecArgs, Global, runsc_id
from shim.runsc.container_flags import NO_FLAGS, ContainerFlags
from shim.runsc.containers import Containers
from shim.runsc.failure import error_line, failure
from shim.runsc.open_streams import OpenStreams
from shim.runsc.output import GuestProcess, parse_ps, parse_stats, parse_status
from shim.runsc.probe import Capabilities
from shim.runsc.run import Completed, Started, run
from shim.runsc.sentry import RECONCILE_S, Sentry
from shim.runsc.statefile import StateFile
from shim.runsc.supervised import Supervised

# Callers that read statistics do so often: containerd's monitor waits 2 s.
_STATS_S = 1.5
_KILL = 9
# How `runsc checkpoint` prefixes an error from the sentry (runsc/cmd/checkpoint.go).
_SAVE_FAILED = b"checkpoint failed: "


def _check(command: str, done: Completed) -> None:
    if done.status:
        line = error_line(done.stderr.decode("utf-8", "replace"))
        raise failure(command, done.status, line)


class Runsc:
    """The runsc of one namespace: binary, root directory, flags and deadlines."""

    def __init__(
        self,
        config: Config,
        capabilities: Capabilities,
        root: Path,
        supervisor: ProcessSupervisor,
        streams: OpenStreams,
    ) -> None:
        """Take the streams that the process has open, whatever client opened them."""
        self.capabilities = capabilities
        self.flags = dict(config.runsc.flags)
        self.containers = Containers(root)
        self.sentry = Sentry(self.containers, self.status, config.timeouts, streams)
        self._global = Global(binary=capabilities.binary, root=str(root), flags=self.flags)
        self.supervised = Supervised(
            self._global,
            self.containers,
            supervisor,
            config.timeouts,
            nvproxy=capabilities.nvproxy_flag,
        )
        self._timeouts = config.timeouts

    async def _ask(
        self,
        task_id: str,
        command: str,
        args: list[str],
        timeout_s: float | None = None,
        started: Started | None = None,
        own: ContainerFlags = NO_FLAGS,
    ) -> Completed:
        def note(pid: int, start: int) -> None:
            if started is not None:
                started(pid, start)
            failpoints.reach(f"runsc.{command}", failpoints.BEGUN)

        self.containers.check(task_id)
        return await run(
            self._global.with_flags(own.added_to(self.flags)).argv(command, *args),
            timeout_s=self._timeouts.command if timeout_s is None else timeout_s,
            started=note,
            name=f"runsc {command}",
        )

    async def _call(
        self,
        task_id: str,
        command: str,
        args: list[str],
        timeout_s: float | None = None,
        own: ContainerFlags = NO_FLAGS,
    ) -> Completed:
        with failpoints.around(f"runsc.{command}"):
            done = await self._ask(task_id, command, args, timeout_s, own=own)
            _check(command, done)
        return done

    async def check_program(self, task_id: str, sandbox: ProcessId) -> None:
        """Check that a sandbox runs this runsc; after that `capabilities` are those of its file.

        Raises:
            Refused: the file was replaced since the sandbox was created.
        """
        self.capabilities = await sandbox_program.current(self.capabilities, task_id)
        await sandbox_program.check(sandbox, self.capabilities, task_id)

    async def start(self, task_id: str, own: ContainerFlags = NO_FLAGS) -> None:
        """Start a created container; runsc sets up the network now, by the flags of this call."""
        await self._call(task_id, "start", argv.start(task_id), own=own)

    async def kill(
        self, task_id: str, signal: int, *, everyone: bool = False, pid: int = 0
    ) -> None:
        """Signal the init process, all processes, or one by its pid in the root namespace."""
        await self._call(task_id, "kill", argv.kill(task_id, signal, everyone=everyone, pid=pid))

    async def end(self, task_id: str, pid: int) -> None:
        """Kill a process of the container by its pid in `ps`, if it still exists."""
        try:
            await self.kill(task_id, _KILL, pid=pid)
        except CryoError:
            if any(row.pid == pid for row in await self.ps(task_id)):
                raise

    async def pause(self, task_id: str) -> None:
        """Pause the sandbox's processes."""
        await self._turn(task_id, self._call(task_id, "pause", argv.simple(task_id)))

    async def resume(self, task_id: str) -> None:
        """Resume them; this also makes the sentry run pending CUDA steps."""
        timeout_s = self._timeouts.thaw
        await self._turn(task_id, self._call(task_id, "resume", argv.simple(task_id), timeout_s))

    async def _turn(self, task_id: str, work: Awaitable[Completed]) -> None:
        kept = [StateFile(path) for path in self.containers.state_files(task_id)]
        try:
            await work
        except BaseException:
            for file in kept:
                file.repair()
            await shielded(self.sentry.reconcile_pause(task_id), deadline_s=RECONCILE_S)
            raise

    async def status(self, task_id: str) -> str:
        """Return the container's status: `created`, `running`, `paused` or `stopped`.

        Raises:
            RunscError: runsc printed none of these.
        """
        done = await self._call(task_id, "state", argv.simple(task_id))
        return parse_status(done.stdout.decode("utf-8", "replace"))

    async def ps(self, task_id: str) -> list[GuestProcess]:
        """List the processes of the container, by a call to the sentry or else by `runsc ps`."""
        try:
            return await self.sentry.processes(task_id)
        except Unavailable:
            done = await self._call(task_id, "ps", argv.ps(task_id))
            return parse_ps(done.stdout.decode("utf-8", "replace"))

    async def stats(self, task_id: str) -> Stats:
        """Return the container's resource use."""
        done = await self._call(task_id, "events", argv.events(task_id), _STATS_S)
        return parse_stats(done.stdout.decode("utf-8", "replace"))

    async def update(self, task_id: str, resources_file: str) -> None:
        """Apply the LinuxResources in a file."""
        await self._call(task_id, "update", argv.update(task_id, resources_file))

    async def wait_restore(self, task_id: str, timeout_s: float) -> None:
        """Wait until a restore is complete: CUDA toggled, all pages loaded."""
        await self._call(task_id, "wait", argv.wait_restore(task_id), timeout_s)

    async def delete(self, task_id: str) -> None:
        """Remove the container, running or not, if it exists."""
        root = self.containers.root
        if self.containers.exists(task_id):
            statefile.before_delete(root, runsc_id(task_id))
            with contextlib.suppress(NotFound):
                await self._call(task_id, "delete", argv.delete(task_id))
        control.remove_dead(root, runsc_id(task_id))
        statefile.remove_lock(root, runsc_id(task_id))

    async def checkpoint(
        self,
        args: CheckpointArgs,
        *,
        timeout_s: float,
        started: Started | None = None,
        answered: Callable[[], None] | None = None,
    ) -> None:
        """Write an image and leave the container running; close our streams to its ports first.

        Cancelling kills the command but not the save: the sentry finishes it (measured), and the
        next exec or checkpoint waits for that. `answered` is called when the sentry has reported
        the result, so that no save is left running.
        """
        with failpoints.around("runsc.checkpoint"):
            async with self.sentry.without_streams(args.id):
                done = await self._ask(args.id, "checkpoint", args.args(), timeout_s, started)
            if answered is not None and (not done.status or _SAVE_FAILED in done.stderr):
                answered()
            _check("checkpoint", done)

    async def exec(self, args: ExecArgs, *, timeout_s: float) -> Completed:
        """Run a program in the container until it exits; no exit status is an error.

        `internal_pid_file` receives the program's pid in the container, for callers that have to
        kill it when this is cancelled: the program outlives `runsc exec`.

        Raises:
            DeadlineExceeded: it did not exit in time; runsc was killed.
        """
        with failpoints.around("runsc.exec"):
            return await self._ask(args.id, "exec", args.args(), timeout_s)
