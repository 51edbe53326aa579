"""All tasks of one owner process: one short method per operation, plain arguments."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from signal import SIGKILL
from typing import TYPE_CHECKING, Any, TypeVar

from shim.bundle import is_unpacked
from shim.config import Config
from shim.finding import Finding
from shim.host import files, log_fields
from shim.host.filecalls import file_call
from shim.image.images import Images
from shim.model import (
    CheckpointOptions,
    CheckpointResult,
    Clone,
    CloneResult,
    CreateRequest,
    Event,
    Exit,
    Pids,
    ProcessList,
    ProcessView,
    Report,
    RestoreOptions,
    RestoreResult,
    Stats,
    Stdio,
    TaskRef,
    TaskView,
    Timeline,
)
from shim.task import fingerprint_file, process_list, usage
from shim.task.clones import Admit, Clones
from shim.task.cold_fallback import restored_or_cold
from shim.task.container import Container
from shim.task.context import Publish
from shim.task.creation import Creation
from shim.task.host_info import HostInfo
from shim.task.image_service import ImageService
from shim.task.kill import kill, kill_interrupted
from shim.task.name_counters import NameCounters
from shim.task.name_service import NameService
from shim.task.origin import Origins
from shim.task.owner import Owner
from shim.task.pod_restores import PodRestores
from shim.task.recovery import Recovery, log_progress
from shim.task.restore_call import RestoreCall
from shim.task.runtime_env import RuntimeEnv, SidecarEnv
from shim.task.task_map import TaskMap
from shim.task.transactions import Transactions
from shim.task.warm import WarmStarts
from shim.transaction import timeline_file

if TYPE_CHECKING:
    from shim.task.transfers import Transfers

_log = logging.getLogger(__name__)
_T = TypeVar("_T")


def log_event(event: Event) -> None:
    """Log an event, with the fields that are plain: not its streams, nor mounts."""
    ref = {"namespace": event.ref.namespace, "task": event.ref.id}
    _log.info("event %s", event.topic, extra=log_fields.attached({**event.fields, **ref}))


class Tasks:
    """The operations on tasks, which the handlers in `shim.service` call."""

    def __init__(
        self, config: Config, publish: Publish = log_event, runtime_env: RuntimeEnv | None = None
    ) -> None:
        """Take the settings, the event publisher, and the environment: by default a sidecar's."""
        self._config = config
        self._timeouts = config.timeouts
        self._owner = Owner(config, publish, runtime_env or SidecarEnv(Path(config.paths.state)))
        self._recovery: Recovery | None = None
        self._map = TaskMap()
        self._transactions = Transactions()
        self._image_store = Images(config)
        self._creation = Creation(config, self._map, self._owner)
        counters = NameCounters(config, self._owner)
        self._origins = Origins(config, self._image_store, self._owner, counters)
        self._restores = RestoreCall(config, self._image_store, self._creation, self._owner)
        self._pod_restores = PodRestores(
            config, self._image_store, self._map, self._creation, self._owner
        )
        self._clones = Clones(config, self._image_store, self._restores, self._transactions)
        self.warm = WarmStarts(config, self._map, self._owner, counters, self.checkpoint)
        self.images = ImageService(config, self._image_store, self._owner.capabilities)
        self.names = NameService(config)
        self.host_info = HostInfo(config, self._owner.capabilities)

    @cached_property
    def transfers(self) -> Transfers:
        """Return what pushes and pulls images; a process that never does does not load it."""
        from shim.task.transfers import Transfers  # noqa: PLC0415 - see above

        return Transfers(self._config, self._image_store)

    # -- life ----------------------------------------------------------------------------------

    async def recover(self) -> list[str]:
        """Reach the supervisor, adopt running tasks, record exits, undo what was interrupted.

        Returns one line per action: none, if the last owner stopped cleanly.

        Raises:
            Unavailable: there is no runsc, or the supervisor does not start.
        """
        context = await self._owner.enter()
        if not self._owner.adopts:
            return []
        # A shim fails its first Create instead: one that exited here would give no reason.
        await context.capabilities()
        self._recovery = Recovery(context, self._map)
        await self._recovery.run()
        for task in self._map:
            self.warm.resume(task)
        return self._recovery.lines

    async def tidy(self) -> list[str]:
        """Remove what interrupted checkpoints left among the images, once tasks are recovered.

        It takes long with many images, and changes nothing that a call depends on, so
        it may run while calls are served. Returns one line per action since start.
        """
        if self._recovery is None:
            return []
        await self._recovery.tidy(self._image_store, lambda: self._owner.is_closing)
        return self._recovery.lines

    async def close(self) -> None:
        """Finish or roll back what is under way, and detach; the tasks keep running."""
        self._owner.is_closing = True
        await self._transactions.finish(self._timeouts.shutdown)
        self._pod_restores.detach()
        for task in self._map:
            task.detach()
        await self._owner.leave()

    @property
    def undone(self) -> list[TaskRef]:
        """List the tasks whose rollback failed: their journals are still open."""
        return [task.ref for task in self._map if task.is_undone]

    @property
    def empty(self) -> bool:
        """Whether there is no task, nor one being created."""
        return self._map.empty

    @property
    def spent(self) -> bool:
        """Whether there were tasks, and all are gone."""
        return self._map.spent

    def has(self, ref: TaskRef) -> bool:
        """Whether the task is this owner's, or being created here."""
        return self._map.has(ref)

    def _task(self, ref: TaskRef) -> Container:
        self._owner.context()  # raises if there is none
        return self._map.get(ref)

    async def _created(self, ref: TaskRef) -> Container:
        """Return a task; wait for it while it is being created.

        A client would take NotFound for the end of the task.
        """
        await self._map.until_created(ref, self._timeouts.create)
        return self._task(ref)

    async def _interruptible(self, task: Container, what: str, work: Coroutine[Any, Any, _T]) -> _T:
        """Run work that a graceful stop waits for, and a KILL of its task or sandbox cancels."""
        return await self._transactions.run(work, what, sandbox=self._map.root_ref(task))

    # -- one method per operation --------------------------------------------------------------

    async def create(self, request: CreateRequest) -> int:
        """Create a task from its bundle, or from an image, which Start restores."""
        try:
            # The name is taken first: a client must not get NotFound for a task that is coming.
            with self._map.creating(request.ref):
                task = await self._pod_restores.create(await self._origins.decide(request))
        except BaseException:  # containerd does not remove what it has unpacked for a Create
            if is_unpacked(request.bundle, request.checkpoint):
                unpacked = Path(request.checkpoint)
                await file_call(lambda: files.remove_tree(unpacked), doing=f"remove {unpacked}")
            raise
        return task.record.pid

    async def start(self, ref: TaskRef, exec_id: str = "") -> int:
        """Start the init process or an exec."""
        task = self._task(ref)
        if exec_id:
            return await self._transactions.run(task.execs.start(exec_id), "start")
        if task.record.image_path or task.record.absent:  # a part of a restore
            work = restored_or_cold(task, self._pod_restores.start)
            pid = await self._interruptible(task, "start", work)
        else:
            root = self._map.root_ref(task)
            starting = self._transactions.run(task.start(), "start", sandbox=root, only=task.ref)
            pid = await starting
        self.warm.started(task)
        return pid

    async def state(self, ref: TaskRef, exec_id: str = "") -> ProcessView:
        """Describe a process."""
        return (await self._created(ref)).process_view(exec_id)

    async def wait(self, ref: TaskRef, exec_id: str = "") -> Exit:
        """Return when the process has exited."""
        return await (await self._created(ref)).process(exec_id).exit.get()

    async def kill(
        self, ref: TaskRef, signal: int, *, exec_id: str = "", everyone: bool = False
    ) -> None:
        """Send a signal; a parked task is resumed for any but KILL, as it may need the GPU."""
        task = await self._created(ref)
        if task.is_parked and signal != SIGKILL:
            await self.resume(ref)
        if exec_id:
            await task.execs.get(exec_id).kill(signal)
            return
        if signal == SIGKILL:
            task.machine.require_not_exited()
            # Whatever is under way with the task is cancelled, and returns an error.
            if cancelled := self._transactions.interrupt(task.ref, self._map.root_ref(task)):
                await kill_interrupted(task, cancelled)
                return
        if not await self._pod_restores.end_by_signal(task, signal):
            await kill(task, signal, everyone=everyone)

    async def exec(
        self, ref: TaskRef, exec_id: str, process: Mapping[str, Any], stdio: Stdio
    ) -> None:
        """Add a process to a running task."""
        self._task(ref).execs.add(exec_id, process, stdio)

    async def delete(self, ref: TaskRef, exec_id: str = "") -> ProcessView:
        """Delete a stopped task or exec."""
        task = self._task(ref)
        if exec_id:
            return await task.execs.delete(exec_id)

        async def work() -> ProcessView:
            await self._pod_restores.end_stopped(task)
            self._map.note_finished(task)
            last = await task.delete()
            self._map.remove(task)
            return last

        return await self._transactions.run(work(), "delete")

    async def pids(self, ref: TaskRef) -> Pids:
        """List the processes of the container."""
        return await usage.pids(self._task(ref))

    async def processes(self, ref: TaskRef) -> ProcessList:
        """List the processes of the container, with what is known of each."""
        task = self._task(ref)
        return await process_list.of(task, self._map.sandbox_of(task).root)

    async def pause(self, ref: TaskRef) -> None:
        """Pause the task's processes; io.cryo.park releases their GPU memory."""
        task = self._task(ref)
        if task.parks:
            work = self._map.sandbox_of(task).park(log_progress)
            await self._interruptible(task, "pause", work)
        else:
            await task.pause()

    async def resume(self, ref: TaskRef) -> None:
        """Resume a paused task, with its GPU memory."""
        task = self._task(ref)
        if task.is_parked:
            work = self._map.sandbox_of(task).unpark(log_progress)
            await self._interruptible(task, "resume", work)
        else:
            await task.resume()

    async def update(self, ref: TaskRef, resources: Mapping[str, Any]) -> None:
        """Apply OCI LinuxResources."""
        await usage.update(self._task(ref), resources)

    async def stats(self, ref: TaskRef) -> Stats:
        """Measure the task."""
        return await usage.stats(self._task(ref))

    async def timelines(self, ref: TaskRef) -> tuple[Timeline, ...]:
        """Return where the time of the last operations on the task's sandbox went."""
        root = self._map.sandbox_of(self._task(ref)).root
        return await asyncio.to_thread(timeline_file.read, root.files.folder)

    async def examine(self, ref: TaskRef) -> tuple[Finding, ...]:
        """Find what a checkpoint of the task's sandbox would meet; nothing is changed."""
        task = self._task(ref)
        sandbox = self._map.sandbox_of(task)
        own = await fingerprint_file.of(sandbox.root)
        return await self._interruptible(task, "examination", sandbox.examine(own))

    async def close_io(self, ref: TaskRef, exec_id: str = "") -> None:
        """Close a process's stdin."""
        await (await self._created(ref)).process(exec_id).streams.close_stdin()

    async def resize_pty(self, ref: TaskRef, width: int, height: int, exec_id: str = "") -> None:
        """Set the size of a terminal."""
        (await self._created(ref)).process(exec_id).streams.resize(width, height)

    async def checkpoint(
        self, ref: TaskRef, options: CheckpointOptions, report: Report
    ) -> CheckpointResult:
        """Freeze, save, seal, thaw or stop: the task and all that share its sandbox."""
        task = self._task(ref)
        work = self._map.sandbox_of(task).checkpoint(options, report)
        return await self._interruptible(task, "checkpoint", work)

    async def restore(self, ref: TaskRef, options: RestoreOptions, report: Report) -> RestoreResult:
        """Restore an image as a new running task, with those that shared its sandbox."""
        work = self._restores.run(ref, options, report)
        return await self._transactions.run(work, "restore", sandbox=ref)

    async def clone(
        self, clones: Sequence[Clone], at_once: int, admit: Admit, report: Report
    ) -> tuple[CloneResult, ...]:
        """Restore an image as several tasks; `admit` rejects names of other owners' tasks."""
        work = self._clones.run(clones, at_once, admit, report)
        return await self._transactions.run(work, "restore of clones")

    async def namespaces(self) -> set[str]:
        """Return the namespaces that have tasks."""
        self._owner.context()  # raises if there is none
        return self._map.namespaces()

    # Last: below it, `list` in an annotation would mean this method.
    async def list(self, namespace: str) -> list[TaskView]:
        """List the namespace's tasks, by id."""
        self._owner.context()  # raises if there is none
        found = [task.view() for task in self._map.in_namespace(namespace)]
        return sorted(found, key=lambda view: view.id)
