"""One container: its record, its state, its init process and its execs."""

from __future__ import annotations

from pathlib import Path
from signal import SIGKILL

from shim.host.exit_status import UNKNOWN_STATUS
from shim.model import Exit, ProcessView, TaskRef, TaskView, utcnow
from shim.oci import document, pod
from shim.oci.annotations import read_annotations
from shim.oci.document import Spec
from shim.runsc.client import Runsc
from shim.runsc.guest import ContainerGuest
from shim.state import TaskState
from shim.task.container_files import ContainerFiles
from shim.task.context import Context
from shim.task.exec_set import ExecSet
from shim.task.init_process import InitProcess
from shim.task.pod_container import PodContainerLifecycle
from shim.task.process import Process
from shim.task.record import TaskRecord
from shim.task.record_store import RecordStore
from shim.task.root_container import RootLifecycle
from shim.task.state_machine import LIVE, StateMachine
from shim.task.task_warnings import TaskWarnings
from shim.transaction.journal import Journal
from shim.transaction.target import CheckpointTarget


class Container:
    """A task's container: the root container of a sandbox, or another one in a pod's sandbox."""

    def __init__(self, context: Context, runsc: Runsc, record: TaskRecord) -> None:
        folder = context.layout.task(record.ref)
        timeouts = context.config.timeouts
        self.context = context
        self.runsc = runsc
        self.store = RecordStore(folder, record)
        self.warnings = TaskWarnings(context, self.store)
        self.files = ContainerFiles(folder, context.config, self.store)
        self.journal = Journal(folder)
        self.is_root = not record.sandbox_id
        self.guest = ContainerGuest(runsc, record.ref.id, folder, member=not self.is_root)
        # Whether its Start was answered although its pod is not restored yet.
        self.start_answered = False
        self.execs = ExecSet(
            context, runsc, self.store, folder, lambda: self.state, lambda: self._is_waiting
        )
        self.machine = StateMachine(runsc, self.store, self.execs, timeouts.command)
        self.init = InitProcess(
            context,
            runsc,
            self.store,
            self.files,
            RootLifecycle() if self.is_root else PodContainerLifecycle(),
            self.execs.end_with_sandbox,
            self._publish_exit,
            self._keep_crash,
        )

    # -- views ---------------------------------------------------------------------------------

    @property
    def ref(self) -> TaskRef:
        """Return the task's name."""
        return self.store.record.ref

    @property
    def record(self) -> TaskRecord:
        """Return the task's record."""
        return self.store.record

    @property
    def state(self) -> TaskState:
        """Return the state."""
        return self.machine.state

    @property
    def is_undone(self) -> bool:
        """Whether an operation on the sandbox is neither complete nor rolled back."""
        return self.journal.path.exists() and not self.journal.parked

    @property
    def is_parked(self) -> bool:
        """Whether the container is paused with its GPU memory released."""
        return self.state is TaskState.PAUSED and self.journal.parked

    @property
    def parks(self) -> bool:
        """Whether a pause of the container releases its GPU memory."""
        return bool(self.record.gpu and read_annotations(self.files.spec).park)

    @property
    def _is_waiting(self) -> bool:
        waits = (TaskState.CREATED, TaskState.RESTORING)
        return self.start_answered and self.state in waits

    @property
    def name(self) -> str:
        """Return its name in a pod; empty outside one, or if its spec cannot be read."""
        return document.read_annotations(self.files.folder).get(pod.CONTAINER_NAME, "")

    def process(self, exec_id: str) -> Process:
        """Return the init process, or an exec's.

        Raises:
            NotFound: there is no exec of that id.
        """
        return self.execs.get(exec_id).process if exec_id else self.init.process

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
            exit=self.init.process.exit.value,
            execs=self.execs.ids,
            warning=self.warnings.text,
        )

    def process_view(self, exec_id: str = "") -> ProcessView:
        """Describe the init process or an exec.

        A container whose Start was answered is running, although it waits for the restore of its
        pod: a restarted containerd kills one that is only created.
        """
        if exec_id:
            return self.execs.get(exec_id).view(self.record.bundle)
        joined = self.state is TaskState.RESTORING and self.record.started
        waits = joined or self._is_waiting
        return ProcessView(
            id=self.ref.id,
            exec_id="",
            bundle=self.record.bundle,
            pid=self.record.pid,
            state=TaskState.RUNNING if waits else self.state,
            stdio=self.record.stdio,
            exit=self.init.process.exit.value,
        )

    # -- life ----------------------------------------------------------------------------------

    async def create(self, spec: Spec) -> None:
        """Create the container, not yet started; before a restore only its files."""
        async with self.machine.locked():
            await self.files.prepare(spec)
            if not self.record.image_path and self.record.absent is None:
                await self.init.create()

    async def start(self) -> int:
        """Start the created container; return its pid on the host."""
        async with self.machine.holding(TaskState.CREATED, verb="start"):
            self.store.update(unsettled=True)
            async with self.init.process.starting():
                async with self.machine.changing():
                    await self.init.start()
                self.note_started()
                self.machine.run()
            return self.record.pid

    def note_started(self) -> None:
        """Record and publish that the container is started."""
        self.store.try_update(started=True, unsettled=False)
        self.context.publish_event("/tasks/start", self.ref, pid=self.record.pid)

    def _publish_exit(self, exit_: Exit) -> None:
        # The state and the exit change in one step: a stopped task always has its exit.
        self.machine.state = TaskState.STOPPED
        self.context.publish_event(
            "/tasks/exit",
            self.ref,
            id=self.ref.id,
            pid=self.record.pid,
            exit_status=exit_.status,
            exited_at=exit_.at,
        )

    def _keep_crash(self, error: BaseException) -> None:
        why = f"{type(error).__name__}: {error}"
        self.warnings.set(f"its exit is unknown after an internal error: {why}")

    async def pause(self) -> None:
        """Pause all processes."""
        async with self.machine.holding(TaskState.RUNNING, verb="pause", quiesce=True):
            await self.machine.pause()
            self.machine.move(TaskState.PAUSED)
            self.context.publish_event("/tasks/paused", self.ref)

    async def resume(self) -> None:
        """Resume all processes."""
        async with self.machine.holding(TaskState.PAUSED, verb="resume"):
            await self.machine.resume()
            self.machine.move(TaskState.RUNNING)
            self.context.publish_event("/tasks/resumed", self.ref)

    async def delete(self) -> ProcessView:
        """Remove a container that is not running, and all that belongs to it."""
        async with self.machine.holding(TaskState.CREATED, TaskState.STOPPED, verb="delete"):
            if self.state is TaskState.CREATED:
                await self.init.end_unstarted(SIGKILL)
            await self.clear()
            self.machine.move(TaskState.DELETED)
            last = self.process_view()
            at = last.exit.at if last.exit else utcnow()
            status = last.exit.status if last.exit else 0
            self.context.publish_event(
                "/tasks/delete", self.ref, pid=last.pid, exit_status=status, exited_at=at
            )
            return last

    async def clear(self) -> None:
        """Remove the container, its mounts and its folder; safe to repeat."""
        await self.init.end_creator()
        if self.init.is_watched and self.state is not TaskState.STOPPED:
            await self.init.stop()
        await self.runsc.delete(self.ref.id)
        await self.files.remove_cgroups()
        await self.init.streams.close()
        await self.files.remove()
        # End the waits for the processes of the removed task.
        gone = Exit(status=UNKNOWN_STATUS, at=utcnow())
        self.execs.set_exited(gone)
        self.init.process.set_exited(gone)

    def leave_behind(self, warning: str) -> None:
        """Keep the task, so that it can be killed and deleted, after its removal failed.

        Waiters for its exit get that of its sandbox.
        """
        self.warnings.set(warning)
        self.machine.leave_restore()

    # -- owners --------------------------------------------------------------------------------

    async def adopt(self) -> None:
        """Adopt from an earlier owner: streams, execs, and the wait for the exit."""
        record = self.record
        if record.exit is not None:
            self.machine.state = TaskState.STOPPED
            self.init.process.set_exited(record.exit)
            return
        self.machine.state = self.machine.recorded
        if record.unsettled:
            await self.machine.settle()
        await self.execs.adopt(record.execs)
        await self.init.adopt(live=self.state in LIVE)

    def detach(self) -> None:
        """Stop watching: nothing is recorded while the owner exits, and the task keeps running."""
        self.init.detach()
        self.execs.detach()

    # -- transactions --------------------------------------------------------------------------

    async def target(self) -> CheckpointTarget:
        """Return the container as a transaction sees it."""
        record, spec = self.record, self.files.spec
        return CheckpointTarget(
            ref=self.ref,
            config=self.context.config,
            runsc=self.runsc,
            guest=self.guest,
            sandbox=self.init.sandbox,
            spec=spec,
            bundle=Path(record.bundle),
            guest_tool=record.guest_tool,
            gpu=record.gpu,
            own_flags=record.own_flags,
            paused=record.paused,
            journal=self.journal,
            stop=self.init.stop,
            ended=lambda: self.state is TaskState.STOPPED,
            exec_ran=record.exec_ran,
            container="" if self.is_root else self.ref.id,
            name="" if self.is_root else pod.name_of(spec),
            finished=record.finished,
        )
