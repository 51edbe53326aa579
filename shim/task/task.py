"""One task: its init process, its state, and every operation on it, one at a time."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
from collections.abc import AsyncIterator, Collection, Mapping
from contextlib import AbstractAsyncContextManager
from functools import partial
from pathlib import Path
from signal import SIGKILL, SIGTERM
from typing import Any

import msgspec

from shim import bundle as bundle_files
from shim.errors import (
    CryoError,
    DeadlineExceeded,
    FailedPrecondition,
    NotFound,
    RunscError,
    Unimplemented,
)
from shim.host import cgroup, cpu, files, procs
from shim.host.cgroup import Cgroup
from shim.host.filecalls import file_call
from shim.host.oom import OomWatch
from shim.host.oserror import typed
from shim.host.shielded import shielded
from shim.model import (
    Exit,
    Pids,
    ProcessView,
    RestoreOptions,
    Stats,
    Stdio,
    TaskRef,
    TaskView,
    utcnow,
)
from shim.runsc import overlay
from shim.runsc.argv import CreateArgs, RestoreArgs, runsc_id
from shim.runsc.client import Born, Runsc, Streams
from shim.runsc.guest import ContainerGuest
from shim.spec import document, wishes
from shim.spec.document import Spec
from shim.spec.hooks import Names, wrapped
from shim.spec.pod import SANDBOX_ID
from shim.spec.terminal import console_size
from shim.state import TaskState, move, require
from shim.task import record as records
from shim.task import rootfs
from shim.task.context import Context
from shim.task.exec_set import ExecSet
from shim.task.execs import Exec, check_signal
from shim.task.process import UNKNOWN_STATUS, Process, exit_of, until_killed
from shim.task.record import TaskRecord
from shim.task.streams import ProcessStreams
from shim.transaction import network
from shim.transaction.journal import Journal
from shim.transaction.target import CheckpointTarget

_log = logging.getLogger(__name__)
LIVE = (TaskState.RUNNING, TaskState.PAUSED)
_STARTED = ("running", "paused", "stopped")
# What the sentry gets to answer a KILL: it is promised to end a task within two seconds.
_SENTRY_S = 1.0


class Task:
    """A container and everything that belongs to it."""

    def __init__(self, context: Context, runsc: Runsc, record: TaskRecord) -> None:
        self._context = context
        self._runsc = runsc
        self._folder = context.layout.task(record.ref)
        self._lock = asyncio.Lock()
        self._streams = ProcessStreams(context.keeper, record.ref, "", record.stdio, self._folder)
        self._init = Process(
            f"task {record.ref}",
            context.supervisor,
            self._streams,
            self._publish_exit,
            self._note_crash,
        )
        self._watched = False
        self._oom: OomWatch | None = None
        self._new_cgroups: list[Path] = []
        self.record = record
        self.state = TaskState.CREATED
        self.journal = Journal(self._folder)
        self.guest = ContainerGuest(
            runsc, record.ref.id, self._folder, member=bool(record.sandbox_id)
        )
        self.execs = ExecSet(
            context, runsc, record.ref, self._folder, lambda execs: self.note(execs=execs)
        )

    # -- what it is ----------------------------------------------------------------------------

    @property
    def ref(self) -> TaskRef:
        """Return the task's name."""
        return self.record.ref

    @property
    def _sandbox(self) -> Born:
        return Born(pid=self.record.pid, start=self.record.start)

    @property
    def bundle(self) -> Path:
        """Return the folder with the prepared config.json that runsc reads."""
        return self._folder / "bundle"

    def note(self, **changes: Any) -> None:
        """Change the record, on disk first."""
        changed = msgspec.structs.replace(self.record, **changes)
        records.save(self._folder, changed)
        self.record = changed

    def _note_kindly(self, **changes: Any) -> None:
        """Change the record, on disk if that is possible: what it tells has happened already."""
        try:
            self.note(**changes)
        except CryoError as error:
            _log.warning("task %s: %s", self.ref, error)
            self.record = msgspec.structs.replace(self.record, **changes)

    @contextlib.asynccontextmanager
    async def _changing(self) -> AsyncIterator[None]:
        """Let runsc start, pause or resume the task; when that breaks off, see what it has done.

        Whoever takes over from an owner that died meanwhile asks as well: then the record says so.
        """
        try:
            yield
        except BaseException:
            # A few commands of runsc, each with its own deadline.
            await shielded(self._settle(), deadline_s=4 * self._context.config.timeouts.command)
            raise

    async def _settle(self) -> None:
        """Take runsc's word for whether the task is started and paused."""
        try:
            await self._runsc.agree(self.ref.id)
            status = await self._runsc.status(self.ref.id)
        except CryoError as error:
            _log.warning("task %s: %s", self.ref, error)
            return
        started, paused = status in _STARTED, status == "paused"
        self._note_kindly(started=started, paused=paused, unsettled=False)
        if self.state in (TaskState.CREATED, *LIVE):
            self.state = self._state_of_record()

    async def check_paused(self) -> None:
        """Ask runsc whether a task that was noted as paused still is, once nothing is under way.

        A resume goes on where its note cannot be written, on a full disk.
        """
        if self.record.paused and self.state in LIVE:
            await self._settle()

    def _state_of_record(self) -> TaskState:
        if not self.record.started:
            return TaskState.CREATED
        return TaskState.PAUSED if self.record.paused else TaskState.RUNNING

    def move(self, new: TaskState) -> None:
        """Go to another state.

        Raises:
            Busy, IllegalState: there is no way there from this one.
        """
        self.state = move(self.ref.id, self.state, new)

    @contextlib.asynccontextmanager
    async def holding(
        self, *allowed: TaskState, verb: str, quiesce: bool = False
    ) -> AsyncIterator[None]:
        """Hold the task for one operation that needs one of these states.

        Short operations wait for each other; a checkpoint or restore is not waited for. With
        `quiesce` no added process is being started meanwhile: what stops the container would
        stop its `runsc exec` in the middle.

        Raises:
            Busy: a checkpoint or restore is under way.
            IllegalState: any other state that does not allow it.
        """
        require(self.ref.id, self.state, *allowed, verb=verb)
        async with self._lock:
            require(self.ref.id, self.state, *allowed, verb=verb)
            async with self.execs.quiesced() if quiesce else contextlib.nullcontext():
                require(self.ref.id, self.state, *allowed, verb=verb)
                yield

    def view(self) -> TaskView:
        """Describe the task for a listing."""
        record = self.record
        return TaskView(
            namespace=self.ref.namespace,
            id=self.ref.id,
            bundle=record.bundle,
            pid=record.pid,
            state=self.state,
            created_at=record.created_at,
            restored_from=record.image_path,
            gpu=record.gpu,
            exit=self._init.exit.value,
            execs=self.execs.ids,
            warning="; ".join(filter(None, (record.warning, *record.notices))),
        )

    def process(self, exec_id: str) -> ProcessView:
        """Describe the init process or an exec."""
        if exec_id:
            return self.exec(exec_id).view(self.record.bundle)
        return ProcessView(
            id=self.ref.id,
            exec_id="",
            bundle=self.record.bundle,
            pid=self.record.pid,
            state=self.state,
            stdio=self.record.stdio,
            exit=self._init.exit.value,
        )

    def exec(self, exec_id: str) -> Exec:
        """Find an added process.

        Raises:
            NotFound: there is none of that id.
        """
        return self.execs.get(exec_id)

    def mark(self) -> None:
        """Leave a link in containerd's bundle, by which `delete` finds us after a crash."""
        if self._is_marked:
            self._link.unlink(missing_ok=True)
            self._link.symlink_to(self._folder)

    def _unmark(self) -> None:
        if self._is_marked:
            self._link.unlink(missing_ok=True)

    @property
    def _is_marked(self) -> bool:
        """Whether the bundle is one of containerd's; what an image names is no folder of ours."""
        record = self.record
        if record.from_image:
            return False
        return bool(record.owner) or bundle_files.is_containerds(record.bundle)

    @property
    def _link(self) -> Path:
        return Path(self.record.bundle) / bundle_files.LINK

    # -- create and start ----------------------------------------------------------------------

    async def create(self, spec: Spec) -> None:
        """Make the container, not yet started; a task to be restored is made by `start`."""
        async with self._lock:
            self._write_bundle(spec)
            self._make_scratch()
            await self._mount_rootfs()
            if not self.record.image_path:
                await self._create_container()

    async def _create_container(self) -> None:
        self._note_cgroups()
        args = CreateArgs(
            id=self.ref.id,
            bundle=str(self.bundle),
            pid_file=str(self._folder / "init.pid"),
            console_socket=await self._streams.listen(),
        )
        async with self._streams_at_create() as streams:
            born = await self._runsc.create(
                args,
                streams,
                gpu=self.record.gpu,
                log=self._folder / "runsc.log",
                overlay2=self.record.overlay2,
                started=self._note_maker,
            )
        self._born(born)
        await self._connect_terminal()

    async def _connect_terminal(self) -> None:
        self._streams.suggest_size(console_size(self.spec.data.get("process")))
        await self._streams.connect(self._context.config.timeouts.console)

    def _note_cgroups(self) -> None:
        """Know the cgroups that runsc will make: one that is killed leaves them behind."""
        path = self._cgroups_path(self.spec)
        self._new_cgroups = [one for one in cgroup.places(path) if not one.exists()]

    def _streams_at_create(self) -> AbstractAsyncContextManager[Streams]:
        """Open what the container gets when its sandbox is made."""
        return self._streams.opened()

    def _note_maker(self, pid: int, start: int) -> None:
        self.note(maker_pid=pid, maker_start=start)

    def _write_bundle(self, spec: Spec) -> None:
        """Write the prepared spec, and the copy of it that runsc reads."""
        data = {**spec.data, "root": {**spec.data["root"], "path": str(spec.rootfs)}}
        _write(self._folder / document.CONFIG, json.dumps(data))
        sandbox = spec.annotations.get(SANDBOX_ID, "")
        if sandbox:
            # runsc finds a pod's sandbox by this, under the id that we gave it.
            data["annotations"] = {**spec.annotations, SANDBOX_ID: runsc_id(sandbox)}
        if path := self._cgroups_path(spec):
            data["linux"] = {**(data.get("linux") or {}), "cgroupsPath": path}
        if hooks := data.get("hooks"):
            names = Names(task=self.ref.id, bundle=self.record.bundle, sandbox=sandbox)
            data["hooks"], links = wrapped(hooks, names, self.bundle)
            for link, target in links.items():
                link.unlink(missing_ok=True)
                link.symlink_to(target)
        _write(self.bundle / document.CONFIG, json.dumps(data))

    def _cgroups_path(self, spec: Spec) -> str:
        """Name the task's cgroup where the spec does not: runsc would take the id that it knows.

        An id alone is not enough: another namespace may have the same, or the host such a cgroup.
        """
        flags = self._context.config.runsc.flags
        if spec.cgroups_path or self.record.sandbox_id or "systemd-cgroup" in flags:
            return spec.cgroups_path
        return f"/cryo@{self.ref.namespace}@{self.ref.id}"

    @property
    def spec(self) -> Spec:
        """Read the prepared spec: as the caller gave it, with the GPU's parts added."""
        whole = (self._folder / document.CONFIG).exists()  # made by an earlier release: runsc's
        return document.load(self._folder if whole else self.bundle, restoring=True)

    def _make_scratch(self) -> None:
        scratch = self._context.config.paths.scratch
        if overlay.folder(self.record.overlay2) == scratch:
            files.private_dir(Path(scratch))

    async def _mount_rootfs(self) -> None:
        if self.record.mounts:
            timeout_s = self._context.config.timeouts.command
            await rootfs.mount(self.record.mounts, Path(self.record.rootfs), timeout_s)

    def _born(self, born: Born, *, restored: bool = False) -> None:
        # What is restored runs before its restore is over, and before a note can say so.
        self.note(pid=born.pid, start=born.start, unsettled=restored)
        self._attend(born)

    def _attend(self, born: Born) -> None:
        """Watch for the sandbox's end, and for what the kernel kills for want of memory."""
        self._watched = True
        self._init.watch(partial(self._exit_of_sandbox, born), self._before_exit)
        try:
            if own := cgroup.find(born.pid):
                self._oom = OomWatch(own, self._tell_oom)
        except CryoError as error:
            _log.warning("task %s: nobody will tell of a lack of memory: %s", self.ref, error)

    def _tell_oom(self) -> None:
        self._context.tell("/tasks/oom", self.ref)

    def _end_oom(self) -> None:
        if self._oom is not None:
            self._oom.close()

    async def _exit_of_sandbox(self, born: Born) -> Exit | None:
        """Wait for the sandbox's end, which carries the init process's exit status."""
        return await exit_of(self._context.keeper, born)

    async def _ended(self, exit_: Exit) -> None:
        await self._init.end(exit_, self._before_exit)

    async def _before_exit(self, exit_: Exit) -> None:
        """Do what comes before the exit: the exits of the execs, the record, a lack of memory."""
        await self._init.attempt(partial(self.execs.end_with_sandbox, exit_.at))
        await self._init.attempt(partial(self._note_end, exit_))
        await self._init.attempt(self._last_look)

    def _note_crash(self, error: BaseException) -> None:
        self.warn(f"its exit is unknown after an internal error: {error!r}")

    def _publish_exit(self, exit_: Exit) -> None:
        # The state and the exit change in one step: who sees a stopped task sees how it ended.
        self.state = TaskState.STOPPED
        self._context.tell(
            "/tasks/exit",
            self.ref,
            id=self.ref.id,
            pid=self.record.pid,
            exit_status=exit_.status,
            exited_at=exit_.at,
        )

    async def _last_look(self) -> None:
        """Tell of a lack of memory before the exit that comes of it."""
        try:
            if self._oom is not None:
                self._oom.look()
        finally:
            self._end_oom()

    async def _note_end(self, exit_: Exit) -> None:
        self.note(exit=exit_, paused=False)

    async def start(self) -> int:
        """Start the created container; return its pid on the host."""
        async with self.holding(TaskState.CREATED, verb="start"):
            self.note(unsettled=True)
            async with self._init.starting():
                async with self._changing():
                    await self._start_container()
                self.note_start()
                self.begin_to_run()
            return self.record.pid

    async def _start_container(self) -> None:
        await self._runsc.start(self.ref.id)

    async def drop_unpacked(self) -> None:
        """Remove the image where containerd has unpacked it for us alone."""
        if self.record.from_image:
            return
        if bundle_files.is_unpacked(self.record.bundle, self.record.image_path):
            image = Path(self.record.image_path)
            await file_call(lambda: files.remove_tree(image), doing=f"remove {image}")

    def note_start(self) -> None:
        """Write down, and tell, that the task has been started."""
        self._note_kindly(started=True, unsettled=False)
        self._context.tell("/tasks/start", self.ref, pid=self.record.pid)

    def begin_to_run(self) -> None:
        """Be a running task, unless it has ended already."""
        if self.state is not TaskState.STOPPED:
            self.move(TaskState.RUNNING)

    # -- control -------------------------------------------------------------------------------

    async def wait(self) -> Exit:
        """Wait for the end of the init process."""
        return await self._init.exit.get()

    async def kill(self, signal: int, *, everyone: bool) -> None:
        """Signal the init process or all; a paused task is resumed first, a created one ended."""
        self.check_alive()
        check_signal(signal)
        if signal == SIGKILL:
            await self._kill_now(everyone=everyone)
            return
        async with self.holding(TaskState.CREATED, *LIVE, verb="kill"):
            if self.state is TaskState.CREATED:
                await self._kill_created(signal)
                return
            await self._signal(signal, everyone=everyone)

    async def _signal(self, signal: int, *, everyone: bool) -> None:
        if self.state is TaskState.PAUSED:
            await self._resume()
        await self._runsc.kill(self.ref.id, signal, everyone=everyone)

    async def _kill_now(self, *, everyone: bool) -> None:
        """Kill without the lock: its holder may wait for what is to be killed."""
        if self.state is TaskState.CREATED:
            await self._kill_created(SIGKILL)
            return
        work = self._context.supervisor.start(
            self._try_kill(everyone=everyone), name=f"kill of {self._init.name}"
        )
        await asyncio.wait({work}, timeout=self._patience_s)
        if not work.done():
            message = f"runsc kill of task {self.ref} did not end in {self._patience_s:g} s"
            await self.end_without_sentry(DeadlineExceeded(message))
        elif (error := work.result()) is not None:
            await self.end_without_sentry(error)

    @property
    def _patience_s(self) -> float:
        """Return how long `runsc kill` may take before the sandbox itself is killed."""
        return _SENTRY_S

    async def _try_kill(self, *, everyone: bool) -> CryoError | None:
        try:
            await self._signal(SIGKILL, everyone=everyone)
        except CryoError as error:
            return error
        return None

    async def kill_interrupted(self, cancelled: Collection[asyncio.Task[Any]]) -> None:
        """Kill a task whose checkpoint, restore or start was cancelled so that it can be killed.

        The sandbox is killed and not asked: it may be in the middle of a save. `cancelled` are the
        operations, which may still be rolling back; what they have not made yet is theirs to undo.
        """
        if not procs.is_alive(self.record.pid, self.record.start):
            await asyncio.wait(cancelled, timeout=self._context.config.timeouts.command)
        if self.record.pid:
            procs.kill(self.record.pid, self.record.start, SIGKILL)

    async def end_without_sentry(self, error: CryoError) -> None:
        """Kill what the sentry did not kill: it may hang, and KILL is the last resort of a caller.

        Raises:
            CryoError: `error`, where it cannot be done without it, or has been done.
        """
        if not procs.is_alive(self.record.pid, self.record.start):
            raise error
        _log.warning("task %s: its sandbox is killed, for it did not kill: %s", self.ref, error)
        procs.kill(self.record.pid, self.record.start, SIGKILL)

    def check_alive(self) -> None:
        """Check that the task has not ended.

        Raises:
            NotFound: it has.
        """
        if self.state is TaskState.STOPPED:
            raise self._gone()

    def _gone(self) -> NotFound:
        return NotFound(f"task {self.ref} has ended", remedy="delete it")

    async def _kill_created(self, signal: int) -> None:
        """End a sandbox whose init never ran: runsc signals only what runs."""
        if not ends_created(signal):
            message = f"task {self.ref} has not been started; only KILL and TERM can end it"
            raise FailedPrecondition(message, remedy="start it, or kill it with KILL")
        if self.record.pid:
            await self.stop()
        else:
            await self._ended(Exit(status=128 + signal, at=utcnow()))

    async def pause(self) -> None:
        """Stop all processes of the task."""
        async with self.holding(TaskState.RUNNING, verb="pause", quiesce=True):
            await self.halt()
            self.move(TaskState.PAUSED)
            self.tell_paused()

    async def halt(self) -> None:
        """Pause what the caller holds; the state is for the caller to change."""
        self.note(unsettled=True)
        async with self._changing():
            await self._runsc.pause(self.ref.id)
        self._note_kindly(paused=True, unsettled=False)

    def tell_paused(self) -> None:
        """Tell that the task is paused."""
        self._context.tell("/tasks/paused", self.ref)

    async def resume(self) -> None:
        """Let a paused task go on."""
        async with self.holding(TaskState.PAUSED, verb="resume"):
            await self._resume()
            self.tell_resumed()

    async def _resume(self) -> None:
        await self.go_on()
        self.move(TaskState.RUNNING)

    async def go_on(self) -> None:
        """Resume what the caller holds, if it is paused; the state is for the caller to change."""
        if self.record.unsettled:
            await self._settle()
        if not self.record.paused:
            return
        self._note_kindly(unsettled=True)
        async with self._changing():
            await self._runsc.resume(self.ref.id)
        self._note_kindly(paused=False, unsettled=False)

    def tell_resumed(self) -> None:
        """Tell that the task goes on."""
        self._context.tell("/tasks/resumed", self.ref)

    async def pids(self) -> Pids:
        """List the processes of the container, here and by its own numbers; an ended task had one.

        Before its restore a shim's task has the shim alone: a containerd that is started again
        takes a shim without any process for one that was left behind, and forgets it.
        """
        if self.state not in LIVE:
            pid = self.record.pid or (os.getpid() if self.record.owner else 0)
            return Pids(host=(pid,) if pid else ())
        guest = tuple(row.pid for row in await self.guest.ps())
        gofer = await asyncio.to_thread(self._runsc.gofer_pid, self.ref.id)
        return Pids(host=(self.record.pid, *((gofer,) if gofer else ())), guest=guest)

    async def stats(self) -> Stats:
        """Measure the task: its cgroup where it has one, else what runsc says.

        Raises:
            NotFound: it has ended, perhaps just now.
        """
        self.check_alive()
        try:
            own = cgroup.find(self.record.pid)
            return await (self._measured_in(own) if own else self._measured())
        except CryoError:
            if not self.record.pid or procs.is_alive(self.record.pid, self.record.start):
                raise
            raise self._gone() from None

    async def _measured_in(self, own: Cgroup) -> Stats:
        return cgroup.measure(own)

    async def _measured(self) -> Stats:
        stats = await self._runsc.stats(self.ref.id)
        # Without cgroups runsc reports the CPU time of the whole host as the container's.
        used = await asyncio.to_thread(cpu.used_below, self.record.pid)
        return msgspec.structs.replace(
            stats,
            cpu_usage_ns=used.user_ns + used.system_ns,
            cpu_user_ns=used.user_ns,
            cpu_system_ns=used.system_ns,
        )

    async def update(self, resources: Mapping[str, Any]) -> None:
        """Apply LinuxResources.

        Raises:
            Unimplemented: this runsc has no update.
        """
        async with self.holding(TaskState.CREATED, *LIVE, verb="update"):
            if not self._runsc.capabilities.update:
                message = "this runsc has no update"
                raise Unimplemented(message, remedy="use runsc from 2026-01 on")
            path = self._folder / "resources.json"
            _write(path, json.dumps(resources))
            try:
                await self._runsc.update(self.ref.id, str(path))
            except RunscError as error:
                raise _without_cgroup(self.ref.id, error) from error

    async def close_io(self, exec_id: str) -> None:
        """Close the stdin of the init process or of an exec."""
        if exec_id:
            await self.exec(exec_id).streams.close_stdin()
        else:
            await self._streams.close_stdin()

    def resize(self, width: int, height: int, exec_id: str) -> None:
        """Tell a terminal its size."""
        streams = self.exec(exec_id).streams if exec_id else self._streams
        streams.resize(width, height)

    # -- execs ---------------------------------------------------------------------------------

    async def add_exec(self, exec_id: str, process: Mapping[str, Any], stdio: Stdio) -> None:
        """Add a process to the running task."""
        require(self.ref.id, self.state, TaskState.RUNNING, verb="exec in")
        self.execs.add(exec_id, process, stdio)

    async def start_exec(self, exec_id: str) -> int:
        """Run an added process; return its number in the container."""
        require(self.ref.id, self.state, TaskState.RUNNING, verb="exec in")
        if not self.record.exec_ran:
            self._note_kindly(exec_ran=True)  # before: our end may come in the middle of it
        try:
            return await self.execs.start(exec_id)
        finally:
            self._note_execs()

    async def delete_exec(self, exec_id: str) -> ProcessView:
        """Forget an exited process."""
        last = await self.execs.delete(exec_id, self.record.bundle)
        self._note_execs()
        return last

    def _note_execs(self) -> None:
        if self.state is not TaskState.DELETED:
            execs = self.execs.records()
            self._note_kindly(execs=execs, exec_ran=self.record.exec_ran or bool(execs))

    # -- delete --------------------------------------------------------------------------------

    async def delete(self) -> ProcessView:
        """Remove a task that is not running, and everything that it left."""
        async with self.holding(TaskState.CREATED, TaskState.STOPPED, verb="delete"):
            if self.state is TaskState.CREATED:
                await self._kill_created(SIGKILL)
            await self.clear()
            self.move(TaskState.DELETED)
            last = self.process("")
            at = last.exit.at if last.exit else utcnow()
            status = last.exit.status if last.exit else 0
            self._context.tell(
                "/tasks/delete", self.ref, pid=last.pid, exit_status=status, exited_at=at
            )
            return last

    async def adopt(self) -> None:
        """Take over what an earlier owner made: streams, execs, and the wait for the end."""
        record = self.record
        if record.exit is not None:
            self.state = TaskState.STOPPED
            self._init.set_exited(record.exit)
            return
        self.state = self._state_of_record()
        if record.unsettled:
            await self._settle()
        await self.execs.adopt(record.execs)
        if record.pid:
            await self._streams.adopt()
            self._attend(self._sandbox)

    async def _maker_over(self) -> None:
        """Wait for a runsc of a dead owner that still makes the sandbox, or end it."""
        pid, start = self.record.maker_pid, self.record.maker_start
        if not procs.is_alive(pid, start):
            return
        try:
            async with asyncio.timeout(self._context.config.timeouts.create):
                await procs.wait_pidfd(pid, start)
        except TimeoutError:
            below = procs.kill_tree(pid, start)
            timeout_s = self._context.config.timeouts.command
            for number, since in ((pid, start), *below):
                born = Born(pid=number, start=since)
                await until_killed(f"runsc for {self._init.name}", born, timeout_s)

    def let_go(self) -> None:
        """Stop watching, so that nothing is noted while the owner ends; the task runs on."""
        self._init.detach()
        self._end_oom()
        self.execs.detach()

    async def clear(self) -> None:
        """Remove the container, its mounts and its folder; safe to repeat."""
        await self._maker_over()
        if self._watched and self.state is not TaskState.STOPPED:
            await self.stop()
        await self._runsc.delete(self.ref.id)
        await asyncio.to_thread(cgroup.remove_empty, self._new_cgroups)
        await self._streams.close()
        if self.record.mounts:
            timeout_s = self._context.config.timeouts.command
            await rootfs.unmount(Path(self.record.rootfs), timeout_s)
        await self.drop_unpacked()
        await asyncio.to_thread(files.remove_tree, self._folder)
        self._unmark()
        self._wake()

    def _wake(self) -> None:
        """Let those go who wait for a process of a task that is no more."""
        gone = Exit(status=UNKNOWN_STATUS, at=utcnow())
        self.execs.wake(gone)
        self._init.set_exited(gone)

    # -- checkpoint ----------------------------------------------------------------------------

    async def subject(self) -> CheckpointTarget:
        """Hand the task to a transaction."""
        return CheckpointTarget(
            ref=self.ref,
            config=self._context.config,
            runsc=self._runsc,
            guest=self.guest,
            sandbox=self._sandbox,
            spec=self.spec,
            bundle=Path(self.record.bundle),
            guest_tool=self.record.guest_tool,
            gpu=self.record.gpu,
            overlay2=self.record.overlay2,
            paused=self.record.paused,
            execs=self.execs.ids,
            journal=self.journal,
            stop=self.stop,
            ended=lambda: self.state is TaskState.STOPPED,
            exec_ran=self.record.exec_ran,
        )

    async def stop(self) -> None:
        """Kill the sandbox and wait for its end.

        Raises:
            DeadlineExceeded: it does not end; the message names its process and says why.
        """
        procs.kill(self.record.pid, self.record.start, SIGKILL)
        await self._init.killed(self._sandbox, self._context.config.timeouts.command)

    def warn(self, text: str) -> None:
        """Say in the record what its users should know, until something goes well."""
        self._note_kindly(warning=text)

    def notice(self, text: str) -> None:
        """Publish a warning that holds for as long as the task runs."""
        if text not in self.record.notices:
            _log.warning("task %s: %s", self.ref, text)
            self._context.tell("/cryo/warning", self.ref, text=text)
            self._note_kindly(notices=(*self.record.notices, text))

    def leave_behind(self, warning: str) -> None:
        """Stay as a task that can be killed and deleted, after a making that could not be undone.

        A waiter for its exit gets that of its sandbox.
        """
        self.warn(warning)
        if self.state is TaskState.RESTORING:
            self.state = TaskState.CREATED

    def note_damage(self, error: CryoError) -> None:
        """Keep in the record what could not be undone: then the journal is still open."""
        if self.is_undone and not self.record.warning:
            self._note_kindly(warning=str(error))

    @property
    def is_undone(self) -> bool:
        """Whether something was begun with the task that is neither done nor undone."""
        return self.journal.path.exists() and not self.journal.parked

    @property
    def is_parked(self) -> bool:
        """Whether the task is paused with its GPU memory given back."""
        return self.state is TaskState.PAUSED and self.journal.parked

    @property
    def parks(self) -> bool:
        """Whether a pause of the task is to give its GPU memory back."""
        return bool(self.record.gpu and wishes.read(self.spec).park)

    def note_recovered(self) -> None:
        """Take back what the record warned of."""
        if self.record.warning:
            self._note_kindly(warning="")

    def back_to(self, before: TaskState) -> None:
        """Leave a checkpoint, unless the task has ended in it."""
        if self.state is TaskState.CHECKPOINTING:
            self.move(before)

    def back_to_record(self) -> None:
        """Leave a park or its end: running or paused, whichever was noted."""
        self.back_to(self._state_of_record())

    def tell_checkpoint(self, image_path: str) -> None:
        """Tell that the task is in an image."""
        self._context.tell("/tasks/checkpointed", self.ref, checkpoint=image_path)

    # -- restore -------------------------------------------------------------------------------

    async def network_warnings(self) -> tuple[str, ...]:
        """Say what the network of a restored task will lack."""
        spec = document.load(self.bundle, restoring=True)
        return await asyncio.to_thread(network.warnings, spec, self._runsc.flags)

    async def load_image(self, options: RestoreOptions) -> int:
        """Run `runsc restore` with the task's bundle and streams; return the sandbox's pid."""
        self._note_cgroups()
        args = RestoreArgs(
            id=self.ref.id,
            bundle=str(self.bundle),
            pid_file=str(self._folder / "init.pid"),
            image_path=options.image_path,
            console_socket=await self._streams.listen(),
            background=options.background,
            direct=options.direct,
        )
        async with self._streams.opened() as streams:
            born = await self._runsc.restore(
                args,
                streams,
                gpu=self.record.gpu,
                log=self._folder / "runsc.log",
                overlay2=self.record.overlay2,
                timeout_s=self._context.config.timeouts.save,
                started=self._note_maker,
            )
        self._born(born, restored=True)
        await self._connect_terminal()
        return born.pid

    async def attend_end(self) -> None:
        """Listen for the end of what was restored: here it is the sandbox's."""

    async def remove_sandbox(self) -> None:
        """Kill and delete what a failed restore made; the task has ended with it."""
        if self.record.pid:
            await self.stop()
        await self._runsc.delete(self.ref.id)
        if self.state is TaskState.RESTORING:
            await self._ended(Exit(status=UNKNOWN_STATUS, at=utcnow()))


def ends_created(signal: int) -> bool:
    """Whether a signal can end what does not run yet."""
    return signal in (SIGKILL, SIGTERM)


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text, "utf-8")
    except OSError as error:
        raise typed(error, f"write {path}") from error


def _without_cgroup(task: str, error: RunscError) -> CryoError:
    """Say what is wrong where runsc falls over the missing cgroup."""
    if "nil pointer" not in error.line:
        return error
    message = f"task {task} has no cgroup whose limits could be changed"
    return FailedPrecondition(message, remedy="run runsc without --ignore-cgroups")
