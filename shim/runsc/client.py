"""One coroutine per runsc command; each first checks that exactly this container exists."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from shim import failpoints
from shim.config import Config
from shim.errors import CryoError, DeadlineExceeded, NotFound, RunscError, Unavailable
from shim.host import procs
from shim.host.process_id import ProcessId
from shim.host.shielded import shielded
from shim.host.supervisor.protocol import ProcessSupervisor
from shim.model import Stats, Value
from shim.runsc import argv, control, fscat, kernel, statefile, trace, urpc
from shim.runsc.argv import CheckpointArgs, CreateArgs, ExecArgs, Global, RestoreArgs, runsc_id
from shim.runsc.container_flags import NO_FLAGS, ContainerFlags
from shim.runsc.failure import error_line, failure, log_error
from shim.runsc.probe import Capabilities
from shim.runsc.run import KILLED_S, UNDYING_REMEDY, Completed, Started, run, undying
from shim.runsc.statefile import StateFile

_log = logging.getLogger(__name__)

_LOG_LIMIT = 1 << 20
# How long it may take to check and repair the pause state after an interrupted command.
_RECONCILE_S = 120.0
# Callers that read statistics do so often: containerd's monitor waits 2 s.
_STATS_S = 1.5
_STATUSES = ("creating", "created", "running", "paused", "stopped")
# How `runsc checkpoint` prefixes an error from the sentry (runsc/cmd/checkpoint.go).
_SAVE_FAILED = b"checkpoint failed: "
# Errors from data of an unexpected form; OverflowError is int(Infinity).
_STRANGE = (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError)


class Streams(Value):
    """The descriptors of a container's or exec's standard streams."""

    stdin: int
    stdout: int
    stderr: int


class GuestProcess(Value):
    """A row of `runsc ps`, with pids of the sandbox's root pid namespace.

    `group` is the process group, 0 if this runsc does not report it (20240729 does not).
    """

    pid: int
    parent: int
    command: str
    group: int = 0


def _check(command: str, done: Completed) -> None:
    if done.status:
        line = error_line(done.stderr.decode("utf-8", "replace"))
        raise failure(command, done.status, line)


def _unreadable(*, command: str) -> RunscError:
    return RunscError(command, 0, "its output cannot be parsed")


def parse_ps(text: str) -> list[GuestProcess]:
    """Parse the table of `runsc ps` by its header, since its columns differ by version.

    Raises:
        RunscError: it is not such a table; a process's name may contain a line break.
    """
    lines = [line for line in text.split("\n") if line.strip()]
    if not lines:
        return []
    try:
        columns = lines[0].split()
        at = [columns.index(name) for name in ("PID", "PPID", "CMD")]
        group_at = columns.index("PGID") if "PGID" in columns else None
        rows = [line.split(None, len(columns) - 1) for line in lines[1:]]
        return [
            GuestProcess(
                pid=_count(row[at[0]]),
                parent=_count(row[at[1]]),
                command=row[at[2]],
                group=0 if group_at is None else _count(row[group_at]),
            )
            for row in rows
        ]
    except (ValueError, IndexError) as error:
        raise _unreadable(command="ps") from error


def _count(text: str) -> int:
    if not (text.isascii() and text.isdigit()):
        raise ValueError(text)
    return int(text)


def _row(row: dict[str, Any]) -> GuestProcess:
    return GuestProcess(
        pid=int(row["pid"]),
        parent=int(row["ppid"]),
        command=str(row["cmd"]),
        group=int(row.get("pgid", 0)),
    )


def parse_status(text: str) -> str:
    """Parse the status from `runsc state`, which prints the OCI state.

    Raises:
        RunscError: the status is missing or unknown.
    """
    try:
        status = json.loads(text)["status"]
    except _STRANGE as error:
        raise _unreadable(command="state") from error
    if status not in _STATUSES:
        raise _unreadable(command="state")
    return str(status)


def parse_stats(text: str) -> Stats:
    """Parse one `runsc events -stats` object, in runc's format.

    Raises:
        RunscError: it is not such an object.
    """
    try:
        return _stats(json.loads(text).get("data", {}))
    except _STRANGE as error:
        raise _unreadable(command="events") from error


def _stats(data: dict[str, Any]) -> Stats:
    cpu = data.get("cpu", {}).get("usage", {})
    memory = data.get("memory", {}).get("usage", {})
    return Stats(
        cpu_usage_ns=int(cpu.get("total", 0)),
        cpu_user_ns=int(cpu.get("user", 0)),
        cpu_system_ns=int(cpu.get("kernel", 0)),
        memory_bytes=int(memory.get("usage", 0)),
        # The sentry reports one figure, the resident memory.
        memory_rss_bytes=int(memory.get("usage", 0)),
        memory_limit_bytes=int(memory.get("limit", 0)),
        pids=int(data.get("pids", {}).get("current", 0)),
    )


class _Making(NamedTuple):
    """A create or restore: its command line, pid file, log file and timeout."""

    command: str
    args: list[str]
    pid_file: str
    log: Path
    timeout_s: float
    started: Started | None


class Runsc:
    """The runsc of one namespace: binary, root directory, flags and deadlines."""

    def __init__(
        self, config: Config, capabilities: Capabilities, root: Path, supervisor: ProcessSupervisor
    ) -> None:
        self.capabilities = capabilities
        self.root = root
        self._flags = dict(config.runsc.flags)
        self._timeouts = config.timeouts
        self._supervisor = supervisor

    @property
    def flags(self) -> dict[str, str]:
        """Return a copy of the top-level flags of every command."""
        return dict(self._flags)

    # -- state files ---------------------------------------------------------------------------

    def exists(self, task_id: str) -> bool:
        """Whether runsc has a container with exactly this id."""
        return bool(self._state_files(task_id))

    def gofer_pid(self, task_id: str) -> int:
        """Return the host pid of a container's gofer; 0 if it has none."""
        return statefile.gofer_pid(self.root, runsc_id(task_id))

    def _state_files(self, task_id: str) -> list[Path]:
        return statefile.files_of(self.root, runsc_id(task_id))

    def _must_exist(self, task_id: str) -> None:
        if not self.exists(task_id):
            message = f"task {task_id}: runsc has no such container"
            raise NotFound(message)

    def _global(self, own: ContainerFlags = NO_FLAGS, *, gpu: bool = False) -> Global:
        flags = own.added_to(self._flags)
        if gpu and self.capabilities.nvproxy_flag:
            flags.setdefault("nvproxy", "true")
        return Global(binary=self.capabilities.binary, root=str(self.root), flags=flags)

    # -- short commands ------------------------------------------------------------------------

    async def _ask(
        self,
        task_id: str,
        command: str,
        args: list[str],
        timeout_s: float = 0,
        started: Started | None = None,
        own: ContainerFlags = NO_FLAGS,
    ) -> Completed:
        self._must_exist(task_id)
        return await run(
            self._global(own).argv(command, *args),
            timeout_s=timeout_s or self._timeouts.command,
            started=_noting(command, started),
        )

    async def _call(
        self,
        task_id: str,
        command: str,
        args: list[str],
        timeout_s: float = 0,
        own: ContainerFlags = NO_FLAGS,
    ) -> Completed:
        with failpoints.around(f"runsc.{command}"):
            done = await self._ask(task_id, command, args, timeout_s, own=own)
            _check(command, done)
        return done

    async def start(self, task_id: str, own: ContainerFlags = NO_FLAGS) -> None:
        """Start a created container; runsc sets up the network now, by the flags of this call."""
        await self._call(task_id, "start", argv.start(task_id), own=own)

    async def kill(
        self, task_id: str, signal: int, *, everyone: bool = False, pid: int = 0
    ) -> None:
        """Signal the init process, all processes, or one by its pid in the root namespace."""
        await self._call(task_id, "kill", argv.kill(task_id, signal, everyone=everyone, pid=pid))

    async def pause(self, task_id: str) -> None:
        """Pause the sandbox's processes."""
        await self._turn(task_id, self._call(task_id, "pause", argv.simple(task_id)))

    async def resume(self, task_id: str) -> None:
        """Resume them; this also makes the sentry run pending CUDA steps."""
        timeout_s = self._timeouts.thaw
        await self._turn(task_id, self._call(task_id, "resume", argv.simple(task_id), timeout_s))

    async def _turn(self, task_id: str, work: Awaitable[Completed]) -> None:
        kept = [StateFile(path) for path in self._state_files(task_id)]
        try:
            await work
        except BaseException:
            for file in kept:
                file.repair()
            await shielded(self.reconcile_pause(task_id), deadline_s=_RECONCILE_S)
            raise

    async def reconcile_pause(self, task_id: str) -> None:
        """After an interrupted pause or resume, make the sentry match runsc's state, if possible.

        Nothing is done if another container of the sandbox is paused: then a paused kernel is
        correct, and its pause count cannot be read.
        """
        try:
            await self._reconcile_pause(task_id)
        except CryoError as error:
            _log.warning("task %s: cannot determine whether it is paused: %s", task_id, error)

    async def _reconcile_pause(self, task_id: str) -> None:
        said = await self.status(task_id)
        if said not in ("running", "paused") or await self._sibling_is_paused(task_id):
            return
        socket = self._control_socket(task_id)
        paused = await kernel.is_paused(socket, timeout_s=self._timeouts.command)
        if paused and said == "running":
            await kernel.resume(socket, timeout_s=self._timeouts.thaw)
        elif said == "paused" and not paused:
            await kernel.pause(socket)

    async def _sibling_is_paused(self, task_id: str) -> bool:
        own, known = runsc_id(task_id), self._containers()
        others = [name for name, box in known.items() if name != own and box == known.get(own)]
        statuses = [await self.status(name.removesuffix(runsc_id(""))) for name in others]
        return "paused" in statuses

    def _containers(self) -> dict[str, str]:
        """Return the sandbox of each container, both as runsc ids."""
        found = (path.stem.partition("_sandbox:") for path in self.root.glob("*_sandbox:*.state"))
        return {name: sandbox for name, _, sandbox in found}

    def _control_socket(self, task_id: str) -> Path:
        name = runsc_id(task_id)
        sandbox = self._containers().get(name, name)
        return control.control_socket(self.root, sandbox, self._state_files(task_id))

    async def status(self, task_id: str) -> str:
        """Return the container's status: `created`, `running`, `paused` or `stopped`.

        Raises:
            RunscError: runsc printed none of these.
        """
        done = await self._call(task_id, "state", argv.simple(task_id))
        return parse_status(done.stdout.decode("utf-8", "replace"))

    async def ps(self, task_id: str) -> list[GuestProcess]:
        """List the processes of the container, by a call to the sentry or else by `runsc ps`."""
        self._must_exist(task_id)
        socket = self._control_socket(task_id)
        try:
            with failpoints.around("runsc.ps"):
                rows = await urpc.call(socket, "containerManager.Processes", runsc_id(task_id))
            return [_row(row) for row in rows]
        except (Unavailable, *_STRANGE):
            done = await self._call(task_id, "ps", argv.ps(task_id))
            return parse_ps(done.stdout.decode("utf-8", "replace"))

    async def read_files(self, task_id: str, files: Sequence[str]) -> str:
        """Read files of the first container of the task's sandbox, through the sentry.

        Raises:
            Unavailable: this runsc cannot, or a file does not exist or is too large.
        """
        self._must_exist(task_id)
        data = await fscat.read(self._control_socket(task_id), files)
        return data.decode("utf-8", "replace")

    async def exec_descendants(self, task_id: str, wanted: Collection[int]) -> dict[int, bool]:
        """Return, by pid, whether processes of a running sandbox descend from an exec.

        The sandbox is paused for some milliseconds. Pids are those of `ps`; the result omits a
        process that the sentry did not report.

        Raises:
            Unavailable: this runsc has no trace, or another client traces the sandbox.
        """
        self._must_exist(task_id)
        try:
            with failpoints.around("runsc.trace"):
                return await trace.exec_descendants(self._control_socket(task_id), wanted)
        except trace.NoSession:  # an existing session is another client's: do not remove it
            raise
        except BaseException:
            await shielded(self._end_trace(task_id), deadline_s=_RECONCILE_S)
            raise

    async def _end_trace(self, task_id: str) -> None:
        await self.end_trace(task_id)
        await self.reconcile_pause(task_id)

    async def end_trace(self, task_id: str) -> None:
        """Remove the trace session of `exec_descendants`, if one was left behind."""
        with contextlib.suppress(NotFound):
            self._must_exist(task_id)
            await trace.end(self._control_socket(task_id))

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
        if self.exists(task_id):
            statefile.before_delete(self.root, runsc_id(task_id))
            with contextlib.suppress(NotFound):
                await self._call(task_id, "delete", argv.delete(task_id))
        control.remove_dead(self.root, runsc_id(task_id))
        statefile.remove_lock(self.root, runsc_id(task_id))

    async def checkpoint(
        self,
        args: CheckpointArgs,
        *,
        timeout_s: float,
        started: Started | None = None,
        answered: Callable[[], None] | None = None,
    ) -> None:
        """Write an image and leave the container running.

        Cancelling kills the command but not the save: the sentry finishes it (measured), and the
        next exec or checkpoint waits for that. `answered` is called when the sentry has reported
        the result, so that no save is left running.
        """
        with failpoints.around("runsc.checkpoint"):
            done = await self._ask(args.id, "checkpoint", args.args(), timeout_s, started)
            if answered is not None and (not done.status or _SAVE_FAILED in done.stderr):
                answered()
            _check("checkpoint", done)

    async def exec(
        self, task_id: str, command: Sequence[str], *, timeout_s: float, internal_pid_file: str
    ) -> Completed:
        """Run a program in the container until it exits; no exit status is an error.

        `internal_pid_file` receives the program's pid in the container, for callers that have to
        kill it when this is cancelled: the program outlives `runsc exec`.

        Raises:
            DeadlineExceeded: it did not exit in time; runsc was killed.
        """
        self._must_exist(task_id)
        args = ExecArgs(id=task_id, argv=command, internal_pid_file=internal_pid_file).args()
        with failpoints.around("runsc.exec"):
            whole = self._global().argv("exec", *args)
            return await run(whole, timeout_s=timeout_s, started=_noting("exec", None))

    # -- processes that outlive the caller -----------------------------------------------------

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
        timeout_s = self._timeouts.create
        making = _Making("create", args.args(), args.pid_file, log, timeout_s, started)
        return await self._make(making, streams, self._global(own, gpu=gpu))

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
        making = _Making("restore", args.args(), args.pid_file, log, timeout_s, started)
        return await self._make(making, streams, self._global(own, gpu=gpu))

    async def _make(self, making: _Making, streams: Streams, runsc: Global) -> ProcessId:
        making.log.unlink(missing_ok=True)
        whole = runsc.argv(making.command, *making.args, log=str(making.log))
        with failpoints.around(f"runsc.{making.command}"):
            async with self._spawned(whole, streams) as child:
                _noting(making.command, making.started)(child.pid, child.start)
                status = await self._ended(child, making.command, making.timeout_s)
            if status != 0:
                raise failure(making.command, status, last_error(making.log))
        return self._sandbox_of(making.command, Path(making.pid_file))

    @contextlib.asynccontextmanager
    async def _spawned(self, whole: list[str], streams: Streams) -> AsyncIterator[ProcessId]:
        """Start through the supervisor; on error kill the command and its descendants."""
        child = await self._supervisor.spawn(
            whole, stdin=streams.stdin, stdout=streams.stdout, stderr=streams.stderr
        )
        try:
            yield child
        except BaseException:  # failed, cancelled, or its pid could not be recorded
            # The command writes the sandbox's pid file only at its end: the sandbox would leak.
            below = procs.kill_tree(child.pid, child.start)
            try:
                await shielded(self._supervisor.wait(child.pid, child.start), deadline_s=KILLED_S)
                # The socket is removed only once no sandbox listens on it.
                await shielded(procs.until_ended(below), deadline_s=KILLED_S)
            except DeadlineExceeded as error:
                left = (pid for pid, start in below if procs.is_alive(pid, start))
                message = f"runsc was interrupted; {undying(next(left, child.pid))}"
                raise DeadlineExceeded(message, remedy=UNDYING_REMEDY) from error
            raise

    async def _ended(self, child: ProcessId, command: str, timeout_s: float) -> int:
        try:
            async with asyncio.timeout(timeout_s):
                ended = await self._supervisor.wait(child.pid, child.start)
        except TimeoutError as error:
            message = f"runsc {command} did not end in {timeout_s:g} s"
            raise DeadlineExceeded(message) from error
        return ended.status

    def _sandbox_of(self, command: str, pid_file: Path) -> ProcessId:
        try:
            pid = int(pid_file.read_text("ascii"))
        except (OSError, ValueError) as error:
            raise RunscError(command, 0, "it left no pid file") from error
        return ProcessId(pid=pid, start=procs.start_time(pid) or 0)

    async def start_member(
        self, task_id: str, streams: Streams, log: Path, own: ContainerFlags = NO_FLAGS
    ) -> None:
        """Start a container that shares a sandbox; it gets its streams here, not at create."""
        self._must_exist(task_id)
        log.unlink(missing_ok=True)
        command = "start"
        runsc = self._global(own)
        whole = runsc.argv(command, *argv.start(task_id), log=str(log))
        async with self._spawned(whole, streams) as child:
            status = await self._ended(child, command, self._timeouts.create)
        if status != 0:
            raise failure(command, status, last_error(log))

    async def wait_spawn(self, task_id: str, streams: Streams) -> ProcessId:
        """Start a `runsc wait`, which prints the container's exit status when it exits."""
        self._must_exist(task_id)
        return await self._supervisor.spawn(
            self._global().argv("wait", runsc_id(task_id)),
            stdin=streams.stdin,
            stdout=streams.stdout,
            stderr=streams.stderr,
        )

    async def exec_spawn(self, args: ExecArgs, streams: Streams, log: Path) -> ProcessId:
        """Start an attached exec; the runsc process exits with it, with the same exit status."""
        self._must_exist(args.id)
        return await self._supervisor.spawn(
            self._global().argv("exec", *args.args(), log=str(log)),
            stdin=streams.stdin,
            stdout=streams.stdout,
            stderr=streams.stderr,
        )


def _noting(command: str, started: Started | None) -> Started:
    """Return a callback that records the command's pid, then reaches the failpoint "begun"."""

    def note(pid: int, start: int) -> None:
        if started is not None:
            started(pid, start)
        failpoints.reach(f"runsc.{command}", failpoints.BEGUN)

    return note


def last_error(log: Path) -> str:
    """Return the newest error of a runsc log file; empty when there is none."""
    return log_error(_read_log(log))


def _read_log(log: Path) -> str:
    try:
        with log.open("rb") as file:
            file.seek(0, 2)
            file.seek(max(0, file.tell() - _LOG_LIMIT))
            return file.read().decode("utf-8", "replace")
    except OSError:
        return ""
