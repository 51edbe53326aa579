"""A restore that comes in by one Start for each container, as containerd's do.

The Start of a sandbox's own task makes the sandbox and returns: nothing runs yet, and the task
stays `restoring`. Each Start of another container adds that one; the last loads the image and
returns when every process of every container runs. What is late or fails ends all of them.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from pathlib import Path

import msgspec

from shim.config import Config
from shim.errors import Cancelled, CryoError, InvalidArgument
from shim.host.filecalls import file_call
from shim.host.supervisor import Supervisor
from shim.image.verify import read_manifest
from shim.model import Progress
from shim.runsc.probe import Capabilities
from shim.spec import wishes
from shim.state import TaskState
from shim.task.revive import Revival
from shim.task.task import Task

_log = logging.getLogger(__name__)


class Gathering:
    """The Starts of one sandbox's containers, from the first to the last."""

    def __init__(
        self,
        own: Task,
        config: Config,
        capabilities: Capabilities,
        supervisor: Supervisor,
        over: Callable[[], None],
    ) -> None:
        """Take the sandbox's own task, and whom to tell when it is over, well or not."""
        said = wishes.read(own.spec)
        options = msgspec.structs.replace(
            wishes.for_restore(own.record.image_path, said), digest=own.record.image_digest
        )
        self._own = own
        self._capabilities = capabilities
        self._supervisor = supervisor
        self._revival = Revival(own, config, options, self._hear)
        self._over = over
        self._tasks: list[Task] = []
        self._lock = asyncio.Lock()
        self._alarm: asyncio.Task[None] | None = None

    async def start(self, task: Task) -> None:
        """Add a task; the last one brings all of them to life.

        Raises:
            CryoError: why not; then no task of the sandbox is left running.
        """
        async with self._lock:
            try:
                async with task.holding(TaskState.CREATED, verb="start"):
                    await self._add(task)
            finally:
                if self._revival.over or not self._tasks:
                    await self._close()

    async def _add(self, task: Task) -> None:
        name = await self._checked(task)
        task.move(TaskState.RESTORING)
        self._tasks.append(task)
        await self._revival.attempt(self._join(task, name))
        task.note_start()
        if self._revival.over:
            for one in self._tasks:
                one.begin_to_run()
        elif self._alarm is None:
            name = f"deadline of the restore of {self._own.ref}"
            self._alarm = self._supervisor.start(self._expire(), name=name)

    async def _join(self, task: Task, name: str) -> None:
        if task is self._own:
            await self._revival.begin(self._capabilities)
        else:
            await self._revival.join(name, task)
        if not self._revival.missing:
            await self._revival.finish()

    async def _checked(self, task: Task) -> str:
        """Return the name of a task's container in the image.

        Raises:
            InvalidArgument: the task is to be restored from another image.
        """
        if task is self._own:
            return ""
        image = Path(task.record.image_path)
        manifest = await file_call(lambda: read_manifest(image), doing=f"read the image {image}")
        if manifest.digest != self._revival.digest:
            message = f"task {task.ref} has another image than its sandbox {self._own.ref}"
            raise InvalidArgument(message, remedy="restore all containers of a pod from one image")
        return (await task.subject()).name

    async def stop(self, cause: CryoError | None = None) -> bool:
        """End what waits for containers; whether there was anything to end."""
        if self._lock.locked():
            return False
        return await self._stop(cause or Cancelled("the restore was stopped"))

    async def _stop(self, cause: CryoError) -> bool:
        async with self._lock:
            if self._revival.over:
                return False
            try:
                await self._revival.give_up(cause)
            finally:  # also when something could not be removed, or the caller has left
                await self._close()
        return True

    def let_go(self) -> None:
        """Stop watching the time: whoever starts next removes what waits."""
        if self._alarm is not None:
            self._alarm.cancel()

    async def _expire(self) -> None:
        """End what has waited too long; a Start that is under way may still complete it."""
        await asyncio.sleep(self._revival.timeout_s)
        late = self._revival.late()
        if await self._stop(late):
            _log.error("task %s: %s", self._own.ref, late)
            self._own.warn(str(late))

    async def _close(self) -> None:
        """Let go of the tasks: none is being restored any more, whatever else fails here."""
        if self._alarm is not None and self._alarm is not asyncio.current_task():
            self._alarm.cancel()
        self._over()
        for task in self._tasks:
            if task.state is TaskState.RESTORING:
                task.leave_behind("its restore failed, and not all of it could be removed")
        for task in self._tasks:
            await task.drop_unpacked()

    def _hear(self, progress: Progress) -> None:
        """Keep the warnings: no caller of a Start hears of progress."""
        if progress.warning:
            self._own.notice(progress.message)
