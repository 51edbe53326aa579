"""All tasks of one owner process: the map, one method per Task operation, plain arguments."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import platform
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from signal import SIGKILL
from typing import Any, TypeVar

import msgspec

from shim import __version__
from shim.bundle import is_unpacked
from shim.config import Config
from shim.cuda import inventory
from shim.errors import (
    AlreadyExists,
    Busy,
    CryoError,
    FailedPrecondition,
    NotFound,
    Unavailable,
)
from shim.host import files, hugepages
from shim.host.filecalls import file_call
from shim.host.shielded import shielded
from shim.image import manifest as manifests
from shim.image.contents import described, host_access
from shim.image.images import Images
from shim.image.verify import HeldImage
from shim.model import (
    CheckpointOptions,
    CheckpointResult,
    CreateRequest,
    Event,
    Exit,
    ImageView,
    MemberOptions,
    Phase,
    Pids,
    ProcessView,
    Progress,
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
from shim.runsc.prober import Prober
from shim.state import TaskState
from shim.task import record as records
from shim.task.adopt import adopt, close_journal, log_progress
from shim.task.context import Context, Publish
from shim.task.gathering import Gathering
from shim.task.house import House, SidecarHouse
from shim.task.member import task_of
from shim.task.plan import Joining, Plan, plan
from shim.task.pod import Pod
from shim.task.record import TaskRecord
from shim.task.revive import Revival
from shim.task.task import LIVE, Task, ends_created
from shim.task.transactions import Transactions
from shim.task.wanted import members_wanted
from shim.transaction import restore

_log = logging.getLogger(__name__)
_T = TypeVar("_T")
_Item = TypeVar("_Item")
_ADOPTED_AT_ONCE = 4


def log_event(event: Event) -> None:
    """Tell the log what happened."""
    _log.info("%s %s %s", event.topic, event.ref, event.fields)


async def _each(do: Callable[[_Item], Awaitable[None]], items: Iterable[_Item]) -> None:
    """Do it for each item, for a few of them at a time."""
    slots = asyncio.Semaphore(_ADOPTED_AT_ONCE)

    async def one(item: _Item) -> None:
        async with slots:
            await do(item)

    await asyncio.gather(*(one(item) for item in items))


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
        # Records that cannot be read: their ids are not given away.
        self._claimed: set[TaskRef] = set()
        # Tasks being created; set when that is over, well or not.
        self._creating: dict[TaskRef, asyncio.Event] = {}
        self._transactions = Transactions()
        self._context: Context | None = None
        self._gatherings: dict[TaskRef, Gathering] = {}
        self._recovered: list[str] = []
        self._closing = False
        self._images = Images(config)

    # -- life ----------------------------------------------------------------------------------

    async def recover(self) -> list[str]:
        """Reach the keeper, adopt the tasks that run, note the exits, undo what was interrupted.

        Returns what that was, a line each: nothing, where the last owner left in order.

        Raises:
            Unavailable: there is no runsc, or the keeper does not start.
        """
        layout, keeper = await self._house.enter()
        self._context = Context(
            config=self._config,
            layout=layout,
            keeper=keeper,
            prober=Prober(self._config.runsc.binary, layout.known_runsc, self._config.runsc.flags),
            publish=self._publish,
        )
        if self._house.adopts:
            # A shim fails its first Create instead: one that ended here would say nothing.
            await self._context.capabilities()
            # A few at a time: each runs several commands of runsc.
            await _each(self._adopt, layout.found())
            own = [task for task in self._tasks.values() if not task.record.sandbox_id]
            await _each(self._undo, own)
        return self._recovered

    async def tidy(self) -> list[str]:
        """Remove what interrupted checkpoints left among the images, once tasks are recovered.

        It takes long where there are many images, and changes nothing that a call depends on, so
        it may run while calls are served. Returns what was done since the start, a line each.
        """
        if self._house.adopts:
            await self._images.tidy(self._guarded_stagings, self._say)
        return self._recovered

    def _say(self, text: str) -> None:
        _log.warning("%s", text)
        self._recovered.append(text)

    def _guarded_stagings(self) -> set[str] | None:
        """Name the folders that an open journal names: they may hold what could not be thawed."""
        if self._closing:
            return None
        return {task.journal.staging() for task in list(self._tasks.values())}

    async def _adopt(self, ref: TaskRef) -> None:
        """Take over one task; one that cannot be keeps its id, for its sandbox may still run."""
        try:
            task = await adopt(self._ready, ref, self._say)
        except Exception as error:  # noqa: BLE001 - no task may keep the others from their owner
            self._say_failed(ref, error)
            self._claimed.add(ref)
            return
        if task is not None:
            self._tasks[ref] = task

    def _say_failed(self, ref: TaskRef, error: Exception) -> None:
        """Report a task that could not be taken over, with a traceback where it is a fault."""
        if not isinstance(error, CryoError | OSError):
            _log.error("task %s cannot be taken over", ref, exc_info=error)
        self._say(f"task {ref} cannot be taken over: {str(error) or type(error).__name__}")

    async def _undo(self, own: Task) -> None:
        """Bring a sandbox's tasks out of what the last owner did not live to end."""
        try:
            gone = await close_journal(self._pod(own), self._say)
        except Exception as error:  # noqa: BLE001 - no task may keep the others from their owner
            self._say_failed(own.ref, error)
            own.warn(f"it could not be taken over: {error}")
            return
        for task in gone:
            self._tasks.pop(task.ref, None)

    @property
    def _ready(self) -> Context:
        if self._context is None or self._closing:
            message = "the sidecar is " + ("stopping" if self._closing else "not ready")
            raise Unavailable(message, remedy="try again in a moment")
        return self._context

    async def close(self) -> None:
        """Finish or roll back what is under way, and let go; the tasks run on."""
        self._closing = True
        await self._transactions.finish(self._config.timeouts.shutdown)
        for waiting in self._gatherings.values():
            waiting.let_go()
        for task in self._tasks.values():
            task.let_go()
        if self._context is not None:
            await self._context.supervisor.aclose()
            await self._context.keeper.close()
        self._house.leave()

    @property
    def undone(self) -> list[TaskRef]:
        """List the tasks that could not be brought back: their journals are still open."""
        return [ref for ref, task in self._tasks.items() if task.is_undone]

    @property
    def empty(self) -> bool:
        """Whether there is no task, nor one in the making."""
        return not self._tasks and not self._claimed and not self._creating

    def has(self, ref: TaskRef) -> bool:
        """Whether the task is ours, or being made."""
        return ref in self._tasks or ref in self._claimed or ref in self._creating

    async def _created(self, ref: TaskRef) -> Task:
        """Find a task; one that is being created is waited for.

        Raises:
            NotFound: there is none.
            Busy: its creation takes too long.
        """
        timeout_s = self._config.timeouts.create
        if ref in self._creating:
            try:
                async with asyncio.timeout(timeout_s):
                    await self._creating[ref].wait()
            except TimeoutError as error:
                message = f"task {ref} is still being created after {timeout_s:g} s"
                raise Busy(message, remedy="ask again when its creation is over") from error
        return self._task(ref)

    def _task(self, ref: TaskRef) -> Task:
        self._ready  # noqa: B018 - raises while there is no context
        if ref in self._tasks:
            return self._tasks[ref]
        message = f"no task {ref.id} in namespace {ref.namespace}"
        raise NotFound(message, remedy="'cryo tasks ls' lists them")

    def _pod(self, own: Task) -> Pod:
        """Give a sandbox's own task with those that share it, in the order of their making."""

        def members() -> list[Task]:
            found = (
                task
                for ref, task in self._tasks.items()
                if ref.namespace == own.ref.namespace and task.record.sandbox_id == own.ref.id
            )
            return sorted(found, key=lambda task: (task.record.created_at, task.ref.id))

        return Pod(own, members)

    def _own(self, task: Task) -> Task:
        """Find the task whose sandbox a task is in."""
        if not task.record.sandbox_id:
            return task
        own = self._sandbox(task.ref.namespace, task.record.sandbox_id)
        if own is None:
            message = f"the sandbox {task.record.sandbox_id} of task {task.ref} is no task of ours"
            raise NotFound(message, remedy="create a task for the sandbox first")
        return own

    def _sandbox_ref(self, task: Task) -> TaskRef:
        """Name a task's sandbox by its own task; that of a stranger's by the task itself."""
        own = self._sandbox(task.ref.namespace, task.record.sandbox_id)
        return own.ref if own is not None else task.ref

    def _sandbox(self, namespace: str, sandbox_id: str) -> Task | None:
        """Find a sandbox's own task; what a stranger's spec names need be no id at all."""
        found = (task for ref, task in self._tasks.items() if ref.namespace == namespace)
        return next((task for task in found if task.ref.id == sandbox_id), None)

    # -- create --------------------------------------------------------------------------------

    async def create(self, request: CreateRequest) -> int:
        """Make a task from a bundle; with `checkpoint` set, Start restores that image."""
        try:
            task = await self._make(request, await self._manifest_for(request))
        except BaseException:  # containerd forgets what it has unpacked, whatever went wrong
            if is_unpacked(request.bundle, request.checkpoint):
                image = Path(request.checkpoint)
                await file_call(lambda: files.remove_tree(image), doing=f"remove {image}")
            raise
        return task.record.pid

    async def _manifest_for(self, request: CreateRequest) -> manifests.Manifest | None:
        if not request.checkpoint:
            return None
        image = await self._images.find(request.checkpoint)
        return await self._images.manifest(image, strict=True)

    async def _make(
        self,
        request: CreateRequest,
        manifest: manifests.Manifest | None = None,
        *,
        own_bundle: bool = True,
        joining: Joining | None = None,
        image_hooks: bool = False,
        one_call: bool = False,
    ) -> Task:
        context, ref = self._ready, request.ref
        if self.has(ref):
            message = f"task {ref.id} exists in namespace {ref.namespace}"
            raise AlreadyExists(message, remedy="choose another id, or delete that task")
        created = self._creating[ref] = asyncio.Event()
        try:
            prepared = await asyncio.to_thread(
                plan,
                self._config,
                request,
                manifest,
                own_bundle=own_bundle,
                joining=joining,
                one_call=one_call,
                image_hooks=image_hooks,
            )
            record = self._record(request, prepared, manifest)
            record = msgspec.structs.replace(record, from_image=not own_bundle, one_call=one_call)
            task = await self._begin(context, record, prepared)
            self._tasks[ref] = task
        finally:
            del self._creating[ref]
            created.set()
        context.tell(
            "/tasks/create",
            ref,
            bundle=request.bundle,
            rootfs=request.rootfs,
            stdio=request.stdio,
            checkpoint=request.checkpoint,
            pid=task.record.pid,
        )
        for text in prepared.warnings:
            _log.warning("task %s: %s", ref, text)
            context.tell("/cryo/warning", ref, text=text)
        return task

    def _record(
        self, request: CreateRequest, prepared: Plan, manifest: manifests.Manifest | None
    ) -> TaskRecord:
        return TaskRecord(
            ref=request.ref,
            bundle=request.bundle,
            stdio=request.stdio,
            created_at=utcnow(),
            rootfs=str(prepared.spec.rootfs),
            mounts=request.rootfs,
            gpu=prepared.gpu,
            guest_tool=prepared.guest_tool,
            overlay2=prepared.overlay2,
            notices=prepared.warnings,
            image_path=request.checkpoint,
            image_digest=manifest.digest if manifest is not None else "",
            sandbox_id=prepared.sandbox_id,
            owner=self._house.address,
            exec_ran=False,
        )

    async def _begin(self, context: Context, record: TaskRecord, prepared: Plan) -> Task:
        """Write the record before the first side effect; take everything back on failure."""
        ref = record.ref
        task = task_of(context, await context.runsc(ref.namespace), record)
        try:
            task.mark()
            records.save(context.layout.make_task(ref), record)
            async with self._joining(record):
                await task.create(prepared.spec)
        except BaseException:  # a fault of ours must leave nothing either
            await shielded(self._remove([task], "its creation"), deadline_s=None)
            raise
        return task

    async def _remove(self, tasks: Iterable[Task], failed: str) -> None:
        """Remove tasks whose making failed; what cannot be removed is listed, to be deleted.

        Each step of a removal has a deadline of its own.
        """
        for task in tasks:
            try:
                await task.clear()
            except Exception as error:  # noqa: BLE001 - the caller hears what failed before it
                _log.exception("task %s could not be removed after %s failed", task.ref, failed)
                task.leave_behind(f"{failed} failed, and it could not be removed: {error}")
                self._tasks[task.ref] = task
            else:
                task.state = TaskState.DELETED
                self._tasks.pop(task.ref, None)

    @contextlib.asynccontextmanager
    async def _joining(self, record: TaskRecord) -> AsyncIterator[None]:
        """Hold the sandbox's own task while another container joins it.

        Raises:
            Busy: the sandbox is being saved or restored.
        """
        own = self._sandbox(record.ref.namespace, record.sandbox_id)
        if own is None or record.image_path:
            yield
            return
        idle = (TaskState.CREATED, *LIVE, TaskState.STOPPED)
        async with own.holding(*idle, verb="join"):
            yield

    # -- one method per operation --------------------------------------------------------------

    async def start(self, ref: TaskRef, exec_id: str = "") -> int:
        """Start the init process or an exec."""
        task = self._task(ref)
        if exec_id:
            return await self._transactions.run(task.start_exec(exec_id), "start")
        if task.record.image_path:  # a part of the restore of the whole sandbox
            return await self._interruptible(task, "start", self._restore_part(task))
        sandbox = self._sandbox_ref(task)
        return await self._transactions.run(task.start(), "start", sandbox=sandbox, only=task.ref)

    async def _restore_part(self, task: Task) -> int:
        await (await self._gathering(task)).start(task)
        return task.record.pid

    async def _gathering(self, task: Task) -> Gathering:
        """Find the restore that a Start is a part of; that of a sandbox's own task begins it."""
        able = await self._ready.capabilities()
        # From here to the insertion nothing is awaited: two Starts must find the same one.
        own = self._own(task)
        if own.ref in self._gatherings:
            return self._gatherings[own.ref]
        if own is not task:
            message = f"task {task.ref} is part of a pod, and no restore of that is under way"
            raise FailedPrecondition(message, remedy=f"start its sandbox {own.ref} first")

        def over() -> None:
            self._gatherings.pop(own.ref, None)

        made = Gathering(own, self._config, able, self._ready.supervisor, over)
        self._gatherings[own.ref] = made
        return made

    async def state(self, ref: TaskRef, exec_id: str = "") -> ProcessView:
        """Tell how a process is.

        A client that asks while its task is being created wants the answer, and no error: it
        would take the task for gone.
        """
        return (await self._created(ref)).process(exec_id)

    async def wait(self, ref: TaskRef, exec_id: str = "") -> Exit:
        """Return when the process has ended."""
        task = await self._created(ref)
        return await (task.exec(exec_id).wait() if exec_id else task.wait())

    async def kill(
        self, ref: TaskRef, signal: int, *, exec_id: str = "", everyone: bool = False
    ) -> None:
        """Send a signal."""
        task = await self._created(ref)
        if exec_id:
            if task.is_parked and signal != SIGKILL:
                await self.resume(ref)  # it is to react to it, and may need the GPU for that
            await task.exec(exec_id).kill(signal)
        elif signal == SIGKILL:
            await self._kill_now(task, everyone=everyone)
        else:
            if task.is_parked:
                await self.resume(ref)
            if not await self._end_gathering(task, signal):
                await task.kill(signal, everyone=everyone)

    async def _kill_now(self, task: Task, *, everyone: bool) -> None:
        """Kill a task whatever is under way with it: that is cancelled, and returns an error."""
        task.check_alive()
        cancelled = self._transactions.interrupt(task.ref, self._sandbox_ref(task))
        if cancelled:
            await task.kill_interrupted(cancelled)
        elif not await self._end_gathering(task, SIGKILL):
            await task.kill(SIGKILL, everyone=everyone)

    async def _end_gathering(self, task: Task, signal: int) -> bool:
        """End a pod's restore that waits for containers, where a signal means that."""
        if task.state is not TaskState.RESTORING or not ends_created(signal):
            return False
        gathering = self._gatherings.get(self._own(task).ref)
        return gathering is not None and await gathering.stop()

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
        return await self._transactions.run(self._delete(task), "delete")

    async def _delete(self, task: Task) -> ProcessView:
        gathering = self._gatherings.get(self._sandbox_ref(task))
        if gathering is not None and task.state is TaskState.STOPPED:
            # Its sandbox has exited. What is undone later would be undone to the next of its name.
            with contextlib.suppress(CryoError):  # the task's own removal tells what is left
                await gathering.stop()
        last = await task.delete()
        self._tasks.pop(task.ref, None)
        return last

    async def pids(self, ref: TaskRef) -> Pids:
        """List the processes of the container."""
        return await self._task(ref).pids()

    async def pause(self, ref: TaskRef) -> None:
        """Stop the task's processes where they are; io.cryo.park gives their GPU memory back."""
        task = self._task(ref)
        if task.parks:
            pod = self._pod(self._own(task))
            await self._interruptible(task, "pause", pod.park(log_progress))
        else:
            await task.pause()

    async def resume(self, ref: TaskRef) -> None:
        """Let a paused task go on, with its GPU memory."""
        task = self._task(ref)
        if task.is_parked:
            await self._interruptible(task, "resume", self._pod(task).unpark(log_progress))
        else:
            await task.resume()

    async def update(self, ref: TaskRef, resources: Mapping[str, Any]) -> None:
        """Apply OCI LinuxResources."""
        await self._task(ref).update(resources)

    async def stats(self, ref: TaskRef) -> Stats:
        """Measure the task."""
        return await self._task(ref).stats()

    async def close_io(self, ref: TaskRef, exec_id: str = "") -> None:
        """Close a process's stdin."""
        await (await self._created(ref)).close_io(exec_id)

    async def resize_pty(self, ref: TaskRef, width: int, height: int, exec_id: str = "") -> None:
        """Tell a terminal its size."""
        (await self._created(ref)).resize(width, height, exec_id)

    # -- checkpoint and restore ----------------------------------------------------------------

    async def _interruptible(self, task: Task, what: str, work: Coroutine[Any, Any, _T]) -> _T:
        """Run what a graceful stop waits for, and a KILL of the task or its sandbox cancels."""
        return await self._transactions.run(work, what, sandbox=self._sandbox_ref(task))

    async def checkpoint(
        self, ref: TaskRef, options: CheckpointOptions, report: Report
    ) -> CheckpointResult:
        """Freeze, save, seal, thaw or stop: the task and all that share its sandbox."""
        task = self._task(ref)
        pod = self._pod(self._own(task))
        return await self._interruptible(task, "checkpoint", pod.checkpoint(options, report))

    async def restore(self, ref: TaskRef, options: RestoreOptions, report: Report) -> RestoreResult:
        """Bring an image back as a new running task, and all that shared its sandbox with it."""
        work = self._restore(ref, options, report)
        return await self._transactions.run(work, "restore", sandbox=ref)

    async def _restore(
        self, ref: TaskRef, options: RestoreOptions, report: Report
    ) -> RestoreResult:
        image = await self._images.find(options.image_path)
        manifest = await self._images.manifest(image, strict=not options.untrusted_folder)
        wanted = members_wanted(manifest, ref, options)
        # What the tasks are made of is what is verified and loaded later, or nothing is.
        digest = options.digest or manifest.digest
        said = msgspec.structs.replace(options, image_path=str(image), digest=digest)
        warnings = self._image_warnings(manifest, options)
        for text in warnings:
            report(Progress(phase=Phase.VERIFY, message=text, warning=True))
        made: list[Task] = []
        try:
            own = MemberOptions(saved=manifest.task, bundle=options.bundle, stdio=options.stdio)
            made.append(await self._made(ref, manifest.own, own, said, manifest))
            for saved, member in zip(manifest.members, wanted, strict=True):
                one = TaskRef(namespace=ref.namespace, id=member.id)
                joining = Joining(name=saved.name, sandbox_id=ref.id)
                made.append(await self._made(one, saved, member, said, manifest, joining))
            names = [saved.name for saved in manifest.members]
            result = await self._revive(made, names, said, report)
            return msgspec.structs.replace(result, warnings=(*warnings, *result.warnings))
        except BaseException:  # a fault of ours must leave nothing either
            await shielded(self._remove(made, "its restore"), deadline_s=None)
            raise

    async def _made(
        self,
        ref: TaskRef,
        saved: manifests.Member,
        wanted: MemberOptions,
        options: RestoreOptions,
        manifest: manifests.Manifest,
        joining: Joining | None = None,
    ) -> Task:
        """Make the task that a container of an image becomes."""
        request = CreateRequest(
            ref=ref,
            bundle=wanted.bundle or saved.bundle,
            stdio=wanted.stdio,
            checkpoint=options.image_path,
        )
        return await self._make(
            request,
            manifest,
            own_bundle=bool(wanted.bundle),
            joining=joining,
            image_hooks=options.image_hooks,
            one_call=True,
        )

    @staticmethod
    def _image_warnings(manifest: manifests.Manifest, options: RestoreOptions) -> tuple[str, ...]:
        """Name the hooks of the image that will not run."""
        if options.bundle or options.image_hooks:
            return ()
        return tuple(
            f"hooks of the image are left out for {one.task}, and run with --image-hooks only: "
            + ", ".join(map(str, one.hooks))
            for one in host_access(manifest)
            if one.hooks
        )

    async def _revive(
        self, made: list[Task], names: list[str], options: RestoreOptions, report: Report
    ) -> RestoreResult:
        """Fill created tasks, the sandbox's own first, from their image."""
        revival = Revival(made[0], self._config, options, report)
        async with contextlib.AsyncExitStack() as stack:
            for task in made:
                await stack.enter_async_context(task.holding(TaskState.CREATED, verb="restore"))
                task.move(TaskState.RESTORING)
            members = dict(zip(names, made[1:], strict=True))
            result = await revival.run(await self._ready.capabilities(), members)
            for task in made:
                task.note_start()
                task.begin_to_run()
        return result

    # -- images --------------------------------------------------------------------------------

    async def images(self) -> list[ImageView]:
        """List the images under the configured folder, newest first."""
        return await self._images.list()

    async def inspect(self, image_path: str) -> dict[str, Any]:
        """Return an image's manifest as plain data."""
        return described(await self._images.manifest(await self._images.find(image_path)))

    async def verify(
        self, image_path: str, mode: Verify, report: Report, *, untrusted_folder: bool = False
    ) -> dict[str, Any]:
        """Check an image whole and against this host."""
        held = HeldImage(await self._images.find(image_path), strict=not untrusted_folder)
        try:
            manifest = await restore.check_image(held, mode, self._config, report)
        finally:
            held.close()
        await restore.check_host(manifest, self._config, await self._ready.capabilities())
        return described(manifest)

    async def remove(self, image_path: str) -> None:
        """Delete an image that lies under the configured folder."""
        await self._images.remove(image_path)

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
            "huge_pages": hugepages.described(),
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
