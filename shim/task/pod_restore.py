"""A restore in one Start for each container of a pod, as containerd calls it.

The Start of the root task makes the sandbox and returns: nothing runs yet, and the task stays
`restoring`. Each Start of another container adds that one; the last loads the image and returns
when every process of every container runs. A failure or the deadline ends all of them.

A pod whose annotations name the image may have containers that the image lacks: they are held back,
and start cold after the load.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from pathlib import Path

import msgspec

from shim.config import Config
from shim.errors import Cancelled, CryoError, DeadlineExceeded, InvalidArgument, Unavailable
from shim.host.background import BackgroundTasks
from shim.host.exit_status import UNKNOWN_STATUS
from shim.host.filecalls import file_call
from shim.image.verify import read_manifest
from shim.model import Exit, Progress, RestoreOptions, utcnow
from shim.oci.annotations import read_annotations, restore_options
from shim.runsc.probe import Capabilities
from shim.state import TaskState
from shim.task.container import Container
from shim.task.held_back import start_held_back
from shim.task.restored_container import RestoredContainer
from shim.transaction.restore_txn import Restore

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
        named = root.record.named
        self.named = named if named is not None and named.in_pod else None
        self._root = root
        self._capabilities = capabilities
        self._background = background
        self._restore = Restore(
            RestoredContainer(root), config, self._options(config), self._keep_warning
        )
        self._on_over = on_over
        self._tasks: list[Container] = []
        self._held_back: list[Container] = []
        self.report_failure_to = self._restore.report_failure_to
        self._lock = asyncio.Lock()
        self._timer: asyncio.Task[None] | None = None
        self._watch: asyncio.Task[None] | None = None
        self._verification: asyncio.Task[None] | None = None

    def _options(self, config: Config) -> RestoreOptions:
        root = self._root
        options = restore_options(root.record.image_path, read_annotations(root.files.spec))
        options = msgspec.structs.replace(options, digest=root.record.image_digest)
        if self.named is None:
            return options
        # Each Start has its own deadline.
        limit_s = options.timeout_s or config.timeouts.restore
        limit_s = min(limit_s, config.pods.start_timeout)
        return msgspec.structs.replace(options, timeout_s=limit_s)

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
        self._renew()
        await self._restore.attempt(self._join(task, name))
        task.note_started()
        if self._restore.over:
            for one in self._tasks:
                one.machine.run()
        else:
            task.init.settle()
            task.start_answered = self.named is not None
            self._watch_sandbox()
            self._watch_verification()
            self._set_timer()

    async def hold_back(self, task: Container) -> bool:
        """Let a container that the image lacks wait for the load; return whether it has to."""
        async with self._lock:
            if self._restore.over:
                return False
            async with task.machine.holding(TaskState.CREATED, verb="start"):
                task.machine.move(TaskState.RESTORING)
                task.start_answered = True
                self._held_back.append(task)
            self._renew()
            self._set_timer()
            return True

    def _renew(self) -> None:
        """Begin the time of another Start, where each has its own."""
        if self.named is not None:
            self._restore.renew()
            self._stop_timer()

    def _set_timer(self) -> None:
        if self._timer is None:
            name = f"deadline of the restore of {self._root.ref}"
            self._timer = self._background.start(self._expire(), name=name)

    def _stop_timer(self) -> None:
        timer, self._timer = self._timer, None
        _cancel(timer)

    def _watch_sandbox(self) -> None:
        if self._watch is None:
            name = f"end of the restore of {self._root.ref}"
            self._watch = self._background.start(self._end_with_sandbox(), name=name)

    def _watch_verification(self) -> None:
        if self._verification is None:
            name = f"verification of the image of {self._root.ref}"
            self._verification = self._background.start(self._end_if_damaged(), name=name)

    async def _end_if_damaged(self) -> None:
        """End the containers if the pages of the image are found damaged between two Starts."""
        try:
            await self._restore.pages_passed()
        except CryoError as damage:
            _log.error("task %s: %s", self._root.ref, damage)
            await self._stop_logged(damage)

    async def _end_with_sandbox(self) -> None:
        """End the containers that are held back: the sandbox knows nothing of them yet."""
        await self._root.init.process.ended.get()
        message = f"sandbox {self._root.ref.id} exited before it was restored"
        await self._stop_logged(Unavailable(message, remedy="create the pod again"))

    async def _stop_logged(self, cause: CryoError) -> None:
        try:
            await self._stop(cause)
        except CryoError as error:  # not all of it could be removed: its deletion reports that
            _log.warning("task %s: %s", self._root.ref, error)

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

    async def fail(self, cause: CryoError) -> None:
        """Roll back, once a Start that is under way has ended."""
        await self._stop(cause)

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
        self._stop_timer()
        _cancel(self._watch)
        _cancel(self._verification)

    async def _expire(self) -> None:
        """Roll back at the deadline, unless a Start that is under way completes the restore."""
        await asyncio.sleep(self._restore.timeout_s)
        late = await asyncio.to_thread(self._late)
        if await self._stop(late):
            _log.error("task %s: %s", self._root.ref, late)
            self._root.warnings.set(str(late))

    def _late(self) -> DeadlineExceeded:
        """Return the error for the deadline; it names containers that may keep others waiting.

        No annotation tells an init container that the image lacks from another one. The kubelet
        starts the others when it has ended, while it waits for the load.
        """
        late = self._restore.late()
        if not self._held_back or not self._restore.missing:
            return late
        names = ", ".join(task.name or task.ref.id for task in self._held_back)
        message = f"{late.message}; {names}, which the image lacks, waits for the load"
        remedy = "save the pod again if that is an init container, which the others wait for"
        return DeadlineExceeded(message, remedy=remedy)

    async def _close(self) -> None:
        """Release the tasks: none of them is being restored any more, whatever else fails."""
        self._stop_timer()
        _cancel(self._watch)
        _cancel(self._verification)
        self._on_over()
        for task in self._tasks:
            task.start_answered = False
            if task.state is TaskState.RESTORING:
                task.leave_behind("its restore failed, and not all of it could be removed")
        for task in self._held_back:
            await self._release(task)
        for task in self._tasks:
            await task.files.remove_unpacked()

    async def _release(self, task: Container) -> None:
        """Start a container that was held back, or end it: the restore has failed."""
        if self._restore.done:
            task.machine.leave_restore()
            work = start_held_back(self._root, task)
            self._background.start(work, name=f"start of {task.init.name}")
        else:
            task.start_answered = False
            await task.init.end(Exit(status=UNKNOWN_STATUS, at=utcnow()))

    def _keep_warning(self, progress: Progress) -> None:
        """Keep the warnings with the root task: a Start has no stream of progress."""
        if progress.warning:
            self._root.warnings.add_notice(progress.message)


def _cancel(task: asyncio.Task[None] | None) -> None:
    """Cancel a background task, unless this is a step of it."""
    if task is not None and task is not asyncio.current_task():
        task.cancel()
