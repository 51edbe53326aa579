"""The pending restores of an owner's pods: which one a Create, a Start or a signal is a part of."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from functools import partial
from pathlib import Path
from signal import SIGCHLD, SIGCONT, SIGURG, SIGWINCH

from shim.config import Config
from shim.errors import Cancelled, CryoError, FailedPrecondition
from shim.host.filecalls import file_call
from shim.image.images import Images
from shim.model import CreateRequest, TaskRef
from shim.oci import document, pod
from shim.state import TaskState
from shim.task.cold_pods import ColdPods, FailedRestore
from shim.task.container import Container
from shim.task.creation import Creation
from shim.task.held_back import finish_at_once, start_cold
from shim.task.kill import ends_created
from shim.task.origin import Origin
from shim.task.owner import Owner
from shim.task.pod_member import member_origin
from shim.task.pod_restore import PendingPodRestore
from shim.task.record import Absent, NamedOrigin
from shim.task.task_map import TaskMap

_log = logging.getLogger(__name__)
# Signals that end no process that does not handle them.
_HARMLESS = (SIGCHLD, SIGCONT, SIGURG, SIGWINCH)


class PodRestores:
    """The pending restores of one owner, by the sandbox's root task."""

    def __init__(
        self, config: Config, images: Images, tasks: TaskMap, creation: Creation, owner: Owner
    ) -> None:
        self._config = config
        self._images = images
        self._tasks = tasks
        self._creation = creation
        self._owner = owner
        self._pending: dict[TaskRef, PendingPodRestore] = {}

    # -- create --------------------------------------------------------------------------------

    async def create(self, origin: Origin) -> Container:
        """Create a task; one whose pod is being restored from a named image as a part of that.

        Raises:
            CryoError: it was not created; the restore of its pod, of which it is a part, has ended.
        """
        root = None if origin.source else await self._restoring_root(origin.request)
        if root is None:
            return await self._creation.create_from(origin)
        try:
            folder_of = self._owner.context().layout.task
            part = await member_origin(self._config, self._images, root, origin.request, folder_of)
            return await self._creation.create_from(part)
        except CryoError as error:
            await self._fail(root, error)
            raise

    async def _restoring_root(self, request: CreateRequest) -> Container | None:
        """Return the root task of a request's sandbox if that is being restored by its name."""
        restoring = [task for task in self._tasks if _is_restored_by_name(task)]
        if not restoring:
            return None
        bundle = Path(request.bundle)
        annotations = await asyncio.to_thread(document.read_annotations, bundle)
        wanted = (request.ref.namespace, pod.sandbox_in(annotations))
        found = (task for task in restoring if (task.ref.namespace, task.ref.id) == wanted)
        return next(found, None)

    async def _fail(self, root: Container, cause: CryoError) -> None:
        pending = self._pending.get(root.ref)
        if pending is not None:
            try:
                await pending.fail(cause)
            except CryoError as error:
                _log.warning("task %s: %s", root.ref, error)

    # -- start ---------------------------------------------------------------------------------

    async def start(self, task: Container) -> int:
        """Start a task as a part of the restore of its sandbox; return its host pid."""
        match task.record.absent:
            case Absent.FINISHED:
                await finish_at_once(task)
            case Absent.HELD_BACK:
                await self._start_held_back(task)
            case None:
                await (await self._find(task)).start(task)
        return task.record.pid or self._tasks.root_of(task).record.pid

    async def _start_held_back(self, task: Container) -> None:
        """Let a container wait for the load, or start it if that is over."""
        root = self._tasks.root_of(task)
        pending = self._pending.get(root.ref)
        if pending is None or not await pending.hold_back(task):
            await start_cold(root, task)

    async def _find(self, task: Container) -> PendingPodRestore:
        """Return the restore that a Start is a part of; that of a root task begins one."""
        able = await self._owner.capabilities()
        # From here to the insertion nothing is awaited: two Starts must find the same one.
        root = self._tasks.root_of(task)
        if root.ref in self._pending:
            return self._pending[root.ref]
        if root is not task:
            message = f"task {task.ref} is part of a pod that is not being restored"
            raise FailedPrecondition(message, remedy=f"start its sandbox {root.ref} first")

        def over() -> None:
            self._pending.pop(root.ref, None)

        made = PendingPodRestore(root, self._config, able, self._owner.context().background, over)
        if made.named is not None:
            made.report_failure_to(partial(self._report_failure, root, made.named))
        self._pending[root.ref] = made
        return made

    async def _report_failure(
        self, root: Container, named: NamedOrigin, cause: BaseException
    ) -> None:
        """Publish why a pod was not restored; where the policy allows it, it starts cold next.

        A sandbox whose own Start fails is started cold in that call, and nothing is noted.
        """
        if named.falls_back and not root.init.is_watched:
            return
        reason = str(cause) or "it was interrupted"
        root.warnings.add_notice(f"its pod was not restored from the image {named.name}: {reason}")
        if named.falls_back:
            stopped = isinstance(cause, Cancelled | asyncio.CancelledError)
            failed = FailedRestore(reason=reason, image="" if stopped else root.record.image_path)
            uid = root.files.spec.annotations.get(pod.SANDBOX_UID, "")
            notes = ColdPods(self._owner.context().layout.cold_pods)
            await file_call(lambda: notes.add(uid, failed), doing="note a pod that starts cold")

    # -- end -----------------------------------------------------------------------------------

    async def end_by_signal(self, task: Container, signal: int) -> bool:
        """End the task's pending restore if the signal would end it; return whether it is handled.

        runsc signals only processes that run. The kubelet stops a container with the signal that
        its image names, whatever that is.
        """
        pending = self._pending.get(self._tasks.root_ref(task))
        if pending is None or task.state is not TaskState.RESTORING:
            return False
        if pending.named is not None and signal in _HARMLESS:
            _log.info("task %s is being restored: signal %d is dropped", task.ref, signal)
            return True
        if pending.named is None and not ends_created(signal):
            return False
        return await pending.stop()

    async def end_stopped(self, task: Container) -> None:
        """Roll back the pending restore of a task whose sandbox has exited, before its deletion.

        A later rollback would remove the next task of its name.
        """
        pending = self._pending.get(self._tasks.root_ref(task))
        if pending is None or task.record.absent or task.state is not TaskState.STOPPED:
            return
        with contextlib.suppress(CryoError):  # the deletion reports what cannot be removed
            await pending.stop()

    def detach(self) -> None:
        """Stop the timers: the owner exits."""
        for pending in self._pending.values():
            pending.detach()


def _is_restored_by_name(task: Container) -> bool:
    record, waits = task.record, (TaskState.CREATED, TaskState.RESTORING)
    return record.named is not None and bool(record.image_path) and task.state in waits
