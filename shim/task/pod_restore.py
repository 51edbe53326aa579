"""A restore in one Start for each container of a pod, as containerd calls it.

The Start of the root task makes the sandbox and returns: nothing runs yet, and the task stays
`restoring`. Each Start of another container adds that one; the last loads the image and returns
when every process of every container runs. A failure or the deadline ends all of them.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable
from pathlib import Path

import msgspec

from shim.config import Config
from shim.errors import Cancelled, CryoError, FailedPrecondition, InvalidArgument
from shim.host.background import BackgroundTasks
from shim.host.filecalls import file_call
from shim.image.verify import read_manifest
from shim.model import Progress, TaskRef
from shim.oci.annotations import read_annotations, restore_options
from shim.runsc.probe import Capabilities
from shim.state import TaskState
from shim.task.container import Container
from shim.task.kill import ends_created
from shim.task.owner import Owner
from shim.task.restore_txn import Restore
from shim.task.restored_container import RestoredContainer
from shim.task.task_map import TaskMap

_log = logging.getLogger(__name__)


class PendingPodRestore:
    """The restore of one sandbox, from the first Start to the last."""

    def __init__(
        self,
        root: Container,
        config: Config,
        capabilities: Capabilities,
        background: BackgroundTasks,
        on_over: Callable[[], None],
    ) -> None:
        """Take the sandbox's root task, and what is called when the restore is over."""
        options = restore_options(root.record.image_path, read_annotations(root.files.spec))
        options = msgspec.structs.replace(options, digest=root.record.image_digest)
        self._root = root
        self._capabilities = capabilities
        self._background = background
        self._restore = Restore(RestoredContainer(root), config, options, self._keep_warning)
        self._on_over = on_over
        self._tasks: list[Container] = []
        self._lock = asyncio.Lock()
        self._timer: asyncio.Task[None] | None = None

    async def start(self, task: Container) -> None:
        """Add a task; the last one completes the restore.

        Raises:
            CryoError: why it failed; then no task of the sandbox is left running.
        """
        async with self._lock:
            try:
                async with task.machine.holding(TaskState.CREATED, verb="start"):
                    await self._add(task)
            finally:
                if self._restore.over or not self._tasks:
                    await self._close()

    async def _add(self, task: Container) -> None:
        name = await self._name_in_image(task)
        task.machine.move(TaskState.RESTORING)
        self._tasks.append(task)
        await self._restore.attempt(self._join(task, name))
        task.note_started()
        if self._restore.over:
            for one in self._tasks:
                one.machine.run()
        elif self._timer is None:
            name = f"deadline of the restore of {self._root.ref}"
            self._timer = self._background.start(self._expire(), name=name)

    async def _join(self, task: Container, name: str) -> None:
        if task is self._root:
            await self._restore.begin(self._capabilities)
        else:
            await self._restore.join(name, RestoredContainer(task))
        if not self._restore.missing:
            await self._restore.finish()

    async def _name_in_image(self, task: Container) -> str:
        """Return the name of a task's container in the image.

        Raises:
            InvalidArgument: the task is to be restored from another image.
        """
        if task is self._root:
            return ""
        image = Path(task.record.image_path)
        manifest = await file_call(lambda: read_manifest(image), doing=f"read the image {image}")
        if manifest.digest != self._restore.digest:
            message = f"task {task.ref} has another image than its sandbox {self._root.ref}"
            raise InvalidArgument(message, remedy="restore all containers of a pod from one image")
        return (await task.target()).name

    async def stop(self, cause: CryoError | None = None) -> bool:
        """Roll back a restore that waits for containers; return whether there was one to end."""
        if self._lock.locked():
            return False
        return await self._stop(cause or Cancelled("the restore was stopped"))

    async def _stop(self, cause: CryoError) -> bool:
        async with self._lock:
            if self._restore.over:
                return False
            try:
                await self._restore.roll_back(cause)
            finally:  # also when something could not be removed, or the caller is cancelled
                await self._close()
        return True

    def detach(self) -> None:
        """Stop the timer: the owner exits, and the next one removes the waiting tasks."""
        if self._timer is not None:
            self._timer.cancel()

    async def _expire(self) -> None:
        """Roll back at the deadline, unless a Start that is under way completes the restore."""
        await asyncio.sleep(self._restore.timeout_s)
        late = self._restore.late()
        if await self._stop(late):
            _log.error("task %s: %s", self._root.ref, late)
            self._root.warnings.set(str(late))

    async def _close(self) -> None:
        """Release the tasks: none of them is being restored any more, whatever else fails."""
        if self._timer is not None and self._timer is not asyncio.current_task():
            self._timer.cancel()
        self._on_over()
        for task in self._tasks:
            if task.state is TaskState.RESTORING:
                task.leave_behind("its restore failed, and not all of it could be removed")
        for task in self._tasks:
            await task.files.remove_unpacked()

    def _keep_warning(self, progress: Progress) -> None:
        """Keep the warnings with the root task: a Start has no stream of progress."""
        if progress.warning:
            self._root.warnings.add_notice(progress.message)


class PodRestores:
    """The pending restores of one owner, by the sandbox's root task."""

    def __init__(self, config: Config, tasks: TaskMap, owner: Owner) -> None:
        self._config = config
        self._tasks = tasks
        self._owner = owner
        self._pending: dict[TaskRef, PendingPodRestore] = {}

    async def start(self, task: Container) -> int:
        """Start a task as a part of the restore of its sandbox; return its host pid."""
        await (await self._find(task)).start(task)
        return task.record.pid

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
        self._pending[root.ref] = made
        return made

    async def end_by_signal(self, task: Container, signal: int) -> bool:
        """Roll back the task's pending restore if the signal would end it; return whether it was.

        runsc signals only processes that run.
        """
        if task.state is not TaskState.RESTORING or not ends_created(signal):
            return False
        pending = self._pending.get(self._tasks.root_of(task).ref)
        return pending is not None and await pending.stop()

    async def end_stopped(self, task: Container) -> None:
        """Roll back the pending restore of a task whose sandbox has exited, before its deletion.

        A later rollback would remove the next task of its name.
        """
        pending = self._pending.get(self._tasks.root_ref(task))
        if pending is not None and task.state is TaskState.STOPPED:
            with contextlib.suppress(CryoError):  # the deletion reports what cannot be removed
                await pending.stop()

    def detach(self) -> None:
        """Stop the timers: the owner exits."""
        for pending in self._pending.values():
            pending.detach()
