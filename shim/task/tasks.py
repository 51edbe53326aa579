"""All tasks of one owner process: the map, one method per Task operation, plain arguments."""

from __future__ import annotations

import asyncio
import logging
import platform
from collections.abc import Coroutine, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

from shim import __version__
from shim.bundle import is_unpacked
from shim.checkpoint import manifest as manifests
from shim.checkpoint import restore, store
from shim.checkpoint.ledger import Ledger
from shim.checkpoint.verify import read_manifest
from shim.checkpoint.worker import settled
from shim.config import Config
from shim.cuda import inventory
from shim.errors import AlreadyExists, CryoError, NotFound, Unavailable, Unimplemented
from shim.host import files
from shim.model import (
    CheckpointOptions,
    CheckpointResult,
    CreateRequest,
    Event,
    Exit,
    ImageView,
    ProcessView,
    Report,
    RestoreOptions,
    RestoreResult,
    Stats,
    Stdio,
    TaskRef,
    TaskView,
    Verify,
    utcnow,
)
from shim.runsc.probe import Prober
from shim.state import TaskState
from shim.task import record as records
from shim.task.adopt import adopt
from shim.task.context import Context, Publish
from shim.task.house import House, SidecarHouse
from shim.task.member import task_of
from shim.task.plan import Plan, plan
from shim.task.record import TaskRecord
from shim.task.task import Task

_log = logging.getLogger(__name__)
_T = TypeVar("_T")


def log_event(event: Event) -> None:
    """Tell the log what happened."""
    _log.info("%s %s %s", event.topic, event.ref, event.fields)


class Tasks:
    """The core behind both edges."""

    def __init__(
        self, config: Config, publish: Publish = log_event, house: House | None = None
    ) -> None:
        """Take the settings, who hears of events, and where to live: by default as the sidecar."""
        self._config = config
        self._house = house or SidecarHouse(Path(config.paths.state))
        self._publish = publish
        self._tasks: dict[TaskRef, Task] = {}
        self._claimed: set[TaskRef] = set()
        self._context: Context | None = None
        self._under_way: set[asyncio.Task[Any]] = set()
        self._closing = False

    # -- life ----------------------------------------------------------------------------------

    async def recover(self) -> None:
        """Reach the keeper, adopt the tasks that run, note the exits, undo what was interrupted.

        Raises:
            Unavailable: there is no runsc, or the keeper does not start.
        """
        layout, keeper = await self._house.enter()
        self._context = Context(
            config=self._config,
            layout=layout,
            keeper=keeper,
            prober=Prober(self._config.runsc.binary),
            publish=self._publish,
        )
        await self._context.capabilities()
        if self._house.adopts:
            await asyncio.gather(*(self._adopt(ref) for ref in layout.found()))
            await asyncio.to_thread(self._remove_stale)

    def _remove_stale(self) -> None:
        """Remove what interrupted checkpoints of tasks that are gone left among the images.

        What an open journal names stays: it may hold what could not be thawed.
        """
        kept = {task.journal.staging() for task in self._tasks.values()}
        for path in store.stale_stagings(self._images):
            if str(path) in kept:
                continue
            _log.warning("removing %s: nobody is at it", path)
            files.remove_tree(path)

    async def _adopt(self, ref: TaskRef) -> None:
        """Take over one task; one that cannot be keeps its id, for its sandbox may still run."""
        try:
            task = await adopt(self._ready, ref)
        except (CryoError, OSError) as error:
            _log.error("task %s cannot be taken over: %s", ref, error)
            self._claimed.add(ref)
            return
        if task is not None:
            self._tasks[ref] = task

    @property
    def _ready(self) -> Context:
        if self._context is None or self._closing:
            message = "the sidecar is " + ("stopping" if self._closing else "not ready")
            raise Unavailable(message, remedy="try again in a moment")
        return self._context

    async def close(self) -> None:
        """Finish or roll back what is under way, and let go; the tasks run on."""
        self._closing = True
        if self._under_way:
            _, late = await asyncio.wait(self._under_way, timeout=self._config.timeouts.shutdown)
            for work in late:
                work.cancel()
            for work in late:
                await settled(work)
        for task in self._tasks.values():
            task.let_go()
        if self._context is not None:
            await self._context.keeper.close()
        self._house.leave()

    @property
    def empty(self) -> bool:
        """Whether there is no task, nor one in the making."""
        return not self._tasks and not self._claimed

    def has(self, ref: TaskRef) -> bool:
        """Whether the task is ours, or being made."""
        return ref in self._tasks or ref in self._claimed

    def _task(self, ref: TaskRef) -> Task:
        self._ready  # noqa: B018 - raises while there is no context
        if ref in self._tasks:
            return self._tasks[ref]
        message = f"no task {ref.id} in namespace {ref.namespace}"
        raise NotFound(message, remedy="'cryo tasks ls' lists them")

    # -- create --------------------------------------------------------------------------------

    async def create(self, request: CreateRequest) -> int:
        """Make a task from a bundle; with `checkpoint` set, Start restores that image."""
        try:
            task = await self._make(request, await self._manifest_for(request))
        except BaseException:  # containerd forgets what it has unpacked, whatever went wrong
            if is_unpacked(request.bundle, request.checkpoint):
                await asyncio.to_thread(files.remove_tree, Path(request.checkpoint))
            raise
        return task.record.pid

    async def _manifest_for(self, request: CreateRequest) -> manifests.Manifest | None:
        if not request.checkpoint:
            return None
        image = store.resolve_existing(request.checkpoint, self._images)
        return await asyncio.to_thread(read_manifest, image)

    async def _make(
        self,
        request: CreateRequest,
        manifest: manifests.Manifest | None = None,
        *,
        own_bundle: bool = True,
    ) -> Task:
        context, ref = self._ready, request.ref
        if ref in self._tasks or ref in self._claimed:
            message = f"task {ref.id} exists in namespace {ref.namespace}"
            raise AlreadyExists(message, remedy="choose another id, or delete that task")
        self._claimed.add(ref)
        try:
            prepared = await asyncio.to_thread(
                plan, self._config, request, manifest, own_bundle=own_bundle
            )
            task = await self._begin(context, request, prepared)
            self._tasks[ref] = task
        finally:
            self._claimed.discard(ref)
        context.tell(
            "/tasks/create",
            ref,
            bundle=request.bundle,
            rootfs=request.rootfs,
            stdio=request.stdio,
            checkpoint=request.checkpoint,
            pid=task.record.pid,
        )
        return task

    async def _begin(self, context: Context, request: CreateRequest, prepared: Plan) -> Task:
        """Write the record before the first side effect; take everything back on failure."""
        ref = request.ref
        record = TaskRecord(
            ref=ref,
            bundle=request.bundle,
            stdio=request.stdio,
            created_at=utcnow(),
            rootfs=str(prepared.spec.rootfs),
            mounts=request.rootfs,
            gpu=prepared.gpu,
            guest_tool=prepared.guest_tool,
            image_path=request.checkpoint,
            sandbox_id=prepared.sandbox_id,
            owner=self._house.address,
        )
        task = task_of(context, await context.runsc(ref.namespace), record)
        try:
            task.mark()
            records.save(context.layout.make_task(ref), record)
            await task.create(prepared.spec)
        except BaseException:  # a fault of ours must leave nothing either
            await settled(asyncio.ensure_future(task.clear()))
            raise
        return task

    # -- one method per operation --------------------------------------------------------------

    async def start(self, ref: TaskRef, exec_id: str = "") -> int:
        """Start the init process or an exec."""
        task = self._task(ref)
        if exec_id:
            return await task.start_exec(exec_id)
        return await self._kept(task.start())

    async def state(self, ref: TaskRef, exec_id: str = "") -> ProcessView:
        """Tell how a process is."""
        return self._task(ref).process(exec_id)

    async def wait(self, ref: TaskRef, exec_id: str = "") -> Exit:
        """Return when the process has ended."""
        task = self._task(ref)
        return await (task.exec(exec_id).wait() if exec_id else task.wait())

    async def kill(
        self, ref: TaskRef, signal: int, *, exec_id: str = "", everyone: bool = False
    ) -> None:
        """Send a signal."""
        task = self._task(ref)
        if exec_id:
            await task.exec(exec_id).kill(signal)
        else:
            await task.kill(signal, everyone=everyone)

    async def exec(
        self, ref: TaskRef, exec_id: str, process: Mapping[str, Any], stdio: Stdio
    ) -> None:
        """Add a process to a running task."""
        await self._task(ref).add_exec(exec_id, process, stdio)

    async def delete(self, ref: TaskRef, exec_id: str = "") -> ProcessView:
        """Forget a stopped task or exec."""
        task = self._task(ref)
        if exec_id:
            return await task.delete_exec(exec_id)
        last = await self._kept(task.delete())
        self._tasks.pop(ref, None)
        return last

    async def pids(self, ref: TaskRef) -> list[int]:
        """List the processes of the container."""
        return await self._task(ref).pids()

    async def pause(self, ref: TaskRef) -> None:
        """Stop the task's processes where they are."""
        await self._task(ref).pause()

    async def resume(self, ref: TaskRef) -> None:
        """Let a paused task go on."""
        await self._task(ref).resume()

    async def update(self, ref: TaskRef, resources: Mapping[str, Any]) -> None:
        """Apply OCI LinuxResources."""
        await self._task(ref).update(resources)

    async def stats(self, ref: TaskRef) -> Stats:
        """Measure the task."""
        return await self._task(ref).stats()

    async def close_io(self, ref: TaskRef, exec_id: str = "") -> None:
        """Close a process's stdin."""
        await self._task(ref).close_io(exec_id)

    async def resize_pty(self, ref: TaskRef, width: int, height: int, exec_id: str = "") -> None:
        """Tell a terminal its size."""
        self._task(ref).resize(width, height, exec_id)

    # -- checkpoint and restore ----------------------------------------------------------------

    async def _kept(self, work: Coroutine[Any, Any, _T]) -> _T:
        """Run what a graceful stop must wait for; cancelling the caller cancels it, and waits."""
        task = asyncio.ensure_future(work)
        self._under_way.add(task)
        task.add_done_callback(self._under_way.discard)
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            task.cancel()
            await settled(task)
            raise

    async def checkpoint(
        self, ref: TaskRef, options: CheckpointOptions, report: Report
    ) -> CheckpointResult:
        """Freeze, save, seal, thaw or stop.

        Raises:
            Unimplemented: the task shares its sandbox, and a save would take the others with it.
        """
        task = self._task(ref)
        self._check_alone(task)
        return await self._kept(task.checkpoint(options, report))

    def _check_alone(self, task: Task) -> None:
        sandbox = task.record.sandbox_id or task.ref.id
        others = [
            other.ref.id
            for other in self._tasks.values()
            if other is not task and sandbox in (other.record.sandbox_id, other.ref.id)
        ]
        if others:
            names = ", ".join(sorted(others))
            message = f"task {task.ref} shares its sandbox with {names}: a save would take them all"
            remedy = "checkpoint a container that has a sandbox of its own"
            raise Unimplemented(message, remedy=remedy)

    async def restore(self, ref: TaskRef, options: RestoreOptions, report: Report) -> RestoreResult:
        """Bring an image back as a new running task."""
        return await self._kept(self._restore(ref, options, report))

    async def _restore(
        self, ref: TaskRef, options: RestoreOptions, report: Report
    ) -> RestoreResult:
        image = store.resolve_existing(options.image_path, self._images)
        manifest = await asyncio.to_thread(read_manifest, image)
        request = CreateRequest(
            ref=ref,
            bundle=options.bundle or manifest.bundle,
            stdio=options.stdio,
            checkpoint=str(image),
        )
        task = await self._make(request, manifest, own_bundle=bool(options.bundle))
        try:
            return await task.revive(options, report)
        except BaseException:  # a fault of ours must leave nothing either
            await settled(asyncio.ensure_future(self._forget(task)))
            raise

    async def _forget(self, task: Task) -> None:
        await task.clear()
        task.state = TaskState.DELETED
        self._tasks.pop(task.ref, None)

    # -- images --------------------------------------------------------------------------------

    @property
    def _images(self) -> Path:
        return Path(self._config.paths.images)

    async def images(self) -> list[ImageView]:
        """List the images under the configured folder, newest first."""
        return await asyncio.to_thread(store.list_images, self._images)

    async def inspect(self, image_path: str) -> dict[str, Any]:
        """Return an image's manifest as plain data."""
        image = store.resolve_existing(image_path, self._images)
        return manifests.to_plain(await asyncio.to_thread(read_manifest, image))

    async def verify(self, image_path: str, mode: Verify, report: Report) -> dict[str, Any]:
        """Check an image whole and against this host."""
        image = store.resolve_existing(image_path, self._images)
        manifest = await restore.check_image(image, mode, self._config, report)
        await restore.check_host(manifest, self._config, await self._ready.capabilities())
        return manifests.to_plain(manifest)

    async def remove(self, image_path: str) -> None:
        """Delete an image that lies under the configured folder."""
        manifest = await asyncio.to_thread(store.remove, image_path, self._images)
        if manifest is not None:
            Ledger(Path(self._config.paths.verified)).forget(manifest.digest)

    async def info(self) -> dict[str, str]:
        """Describe the host."""
        able = await self._ready.capabilities()
        found = inventory.read(self._config.cuda.nvidia_proc)
        engines = ["phased", *(["builtin"] if able.builtin_cuda else [])]
        return {
            "version": __version__,
            "python": platform.python_version(),
            "runsc": able.binary,
            "runsc_version": able.version,
            "engines": ", ".join(engines),
            "driver": found.driver or "none",
            "gpus": ", ".join(f"{gpu.model} ({gpu.uuid})" for gpu in found.gpus) or "none",
            "images": self._config.paths.images,
            "state": self._config.paths.state,
            "time": datetime.now(UTC).isoformat(),
        }

    # Last: below it, `list` in an annotation would mean this method.
    async def list(self, namespace: str) -> list[TaskView]:
        """List the namespace's tasks, by id."""
        self._ready  # noqa: B018 - raises while there is no context
        found = [task.view() for ref, task in self._tasks.items() if ref.namespace == namespace]
        return sorted(found, key=lambda view: view.id)
