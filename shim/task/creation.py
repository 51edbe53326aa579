"""Creates tasks: plan, record, container; a failed creation leaves nothing."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Iterable

from shim.config import Config
from shim.errors import CryoError
from shim.host.shielded import shielded
from shim.image.named import Fingerprint
from shim.model import utcnow
from shim.oci.atomic_volumes import DataFolder, provide
from shim.state import TaskState
from shim.task import fingerprint_file
from shim.task import record as records
from shim.task.container import Container
from shim.task.context import Context
from shim.task.origin import Origin
from shim.task.owner import Owner
from shim.task.plan import Plan, plan
from shim.task.record import TaskRecord
from shim.task.state_machine import LIVE
from shim.task.task_map import TaskMap

_log = logging.getLogger(__name__)


def _provide(folders: Iterable[DataFolder]) -> list[str]:
    """Give volumes their folders of an image; return what failed: a file may be open in one."""
    failed = []
    for one in folders:
        try:
            provide(one)
        except CryoError as error:
            failed.append(f"a file that was open in {one.volume} cannot come back: {error}")
    return failed


class Creation:
    """Creates tasks, and removes those whose creation or restore failed."""

    def __init__(self, config: Config, tasks: TaskMap, owner: Owner) -> None:
        """Take the map to which the tasks are added."""
        self._config = config
        self._tasks = tasks
        self._owner = owner

    async def create(self, origin: Origin) -> Container:
        """Create a task from what was decided, and publish it.

        Raises:
            AlreadyExists: its name is taken.
            CryoError: why it was not created.
        """
        with self._tasks.creating(origin.request.ref):
            return await self.create_from(origin)

    async def create_from(self, origin: Origin) -> Container:
        """Create a task from what was decided, and publish it; the caller has taken its name.

        Raises:
            CryoError: why it was not created.
        """
        request = origin.request
        context, ref = self._owner.context(), request.ref
        planned = origin.plan
        if planned is None:
            planned = await asyncio.to_thread(
                plan, self._config, request, context.layout.task, origin.source
            )
        warnings = (*planned.warnings, *filter(None, (origin.warning,)))
        if planned.data_folders:
            warnings += tuple(await asyncio.to_thread(_provide, planned.data_folders))
        record = self._record(origin, planned, warnings)
        task = await self._create(context, record, planned, origin.fingerprint)
        self._tasks.add(task)
        context.publish_event(
            "/tasks/create",
            ref,
            bundle=request.bundle,
            rootfs=request.rootfs,
            stdio=request.stdio,
            checkpoint=request.checkpoint,
            pid=task.record.pid,
        )
        for text in warnings:
            _log.warning("task %s: %s", ref, text)
            context.publish_event("/cryo/warning", ref, text=text)
        return task

    def _record(self, origin: Origin, planned: Plan, warnings: tuple[str, ...]) -> TaskRecord:
        request, source = origin.request, origin.source
        return TaskRecord(
            ref=request.ref,
            bundle=request.bundle,
            stdio=request.stdio,
            created_at=utcnow(),
            rootfs=str(planned.spec.rootfs),
            mounts=request.rootfs,
            gpu=planned.gpu,
            guest_tool=planned.guest_tool,
            overlay2=planned.overlay2,
            network=self._network(request.ref.namespace, planned),
            notices=warnings,
            image_path=request.checkpoint,
            image_digest=source.manifest.digest if source else "",
            from_image=source is not None and not source.own_bundle,
            one_call=source is not None and source.one_call,
            sandbox_id=planned.sandbox_id,
            owner=self._owner.address,
            exec_ran=False,
            named=origin.named,
            absent=origin.absent,
        )

    async def _create(
        self,
        context: Context,
        record: TaskRecord,
        planned: Plan,
        fingerprint: Fingerprint | None,
    ) -> Container:
        """Write the record before the first side effect; undo everything on failure."""
        ref = record.ref
        task = Container(context, await context.runsc(ref.namespace), record)
        try:
            task.files.link()
            records.save(context.layout.make_task(ref), record)
            if fingerprint is not None:
                fingerprint_file.write(task.files.folder, fingerprint)
            async with self._joining(record):
                await task.create(planned.spec)
        except BaseException:  # also on a bug or a cancellation
            await shielded(self.remove([task], "its creation"), deadline_s=None)
            raise
        return task

    def _network(self, namespace: str, planned: Plan) -> str:
        """Return the network of the sandbox, which a container that joins it shares."""
        root = self._tasks.root(namespace, planned.sandbox_id)
        return planned.network if root is None else root.record.network

    @contextlib.asynccontextmanager
    async def _joining(self, record: TaskRecord) -> AsyncIterator[None]:
        """Hold the sandbox's root task while another container joins it.

        Raises:
            Busy: the sandbox is being saved or restored.
        """
        root = self._tasks.root(record.ref.namespace, record.sandbox_id)
        if root is None or record.image_path or record.absent:
            yield
            return
        idle = (TaskState.CREATED, *LIVE, TaskState.STOPPED)
        async with root.machine.holding(*idle, verb="join"):
            yield

    async def remove(self, tasks: Iterable[Container], failed: str) -> None:
        """Remove tasks whose creation or restore failed; those that remain have a warning.

        Each step of a removal has its own deadline.
        """
        for task in tasks:
            try:
                await task.clear()
            except Exception as error:  # noqa: BLE001 - the caller gets the first error
                _log.exception("task %s could not be removed after %s failed", task.ref, failed)
                task.leave_behind(f"{failed} failed, and it could not be removed: {error}")
                self._tasks.add(task)
            else:
                task.machine.state = TaskState.DELETED
                self._tasks.remove(task)
