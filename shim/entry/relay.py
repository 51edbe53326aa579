"""The sidecar's view of all tasks: its own, and those that shims own, which it forwards to.

Every task has exactly one owner process; nobody else runs runsc on it. A shim writes its socket
into the record of each of its tasks, below the same state folder.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from shim.client import calls
from shim.client.calls import Call
from shim.errors import AlreadyExists, Cancelled, CryoError, DeadlineExceeded, NotFound
from shim.host import procs
from shim.host.shielded import shielded
from shim.model import (
    CheckpointOptions,
    CheckpointResult,
    CreateRequest,
    Exit,
    ImageView,
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
)
from shim.state import TaskState
from shim.task import record as records
from shim.task.record import TaskRecord
from shim.task.tasks import Tasks
from shim.wire.ttrpc.client import Client
from shim.wire.ttrpc_task import NAMESPACE_KEY

_T = TypeVar("_T")
_log = logging.getLogger(__name__)
_USUAL_S = 60.0
_CONNECT_S = 10.0
# A shim says at once how its task is, or hangs.
_LOOK_S = 5.0
# Shims that are asked side by side: each takes a descriptor meanwhile.
_AT_ONCE = 64


class Relay:
    """The TaskService that the sidecar serves."""

    def __init__(self, own: Tasks, state: Path, rollback_s: float) -> None:
        """Take the sidecar's own tasks, the state folder, and how long a shim may roll back."""
        self._own = own
        self._shims = state / "shims"
        self._rollback_s = rollback_s
        self._asking = asyncio.Semaphore(_AT_ONCE)

    # -- finding -------------------------------------------------------------------------------

    def _record(self, ref: TaskRef) -> TaskRecord | None:
        """Find the record of a task that a shim owns."""
        for folder in self._shims.glob(f"*/tasks/{ref.namespace}/{ref.id}"):
            with contextlib.suppress(CryoError):
                record = records.load(folder)
                if record is not None and record.owner:
                    return record
        return None

    def _shim(self, ref: TaskRef) -> str:
        """Return the socket of the shim that owns a task; empty when none does."""
        if self._own.has(ref):
            return ""
        record = self._record(ref)
        return record.owner if record else ""

    async def _call(self, socket: str, call: Call[_T]) -> _T:
        async with _connected(socket) as client:
            return await _over(client, call)

    async def recover(self) -> None:
        """Take over our own tasks; those of shims need nobody."""
        await self._own.recover()

    async def tidy(self) -> None:
        """Remove what interrupted checkpoints left among the images."""
        await self._own.tidy()

    async def close(self) -> None:
        """Close our own tasks."""
        await self._own.close()

    # -- operations ----------------------------------------------------------------------------

    async def create(self, request: CreateRequest) -> int:
        """Make a task of our own."""
        if self._shim(request.ref):
            message = f"task {request.ref} exists in namespace {request.ref.namespace}: a shim's"
            raise AlreadyExists(message, remedy="choose another id")
        return await self._own.create(request)

    async def start(self, ref: TaskRef, exec_id: str = "") -> int:
        """Start the init process or an exec."""
        if socket := self._shim(ref):
            return await self._call(socket, calls.start(ref, exec_id))
        return await self._own.start(ref, exec_id)

    async def state(self, ref: TaskRef, exec_id: str = "") -> ProcessView:
        """Tell how a process is."""
        if socket := self._shim(ref):
            return await self._call(socket, calls.state(ref, exec_id))
        return await self._own.state(ref, exec_id)

    async def wait(self, ref: TaskRef, exec_id: str = "") -> Exit:
        """Return when the process has ended."""
        if socket := self._shim(ref):
            return await self._call(socket, calls.wait(ref, exec_id))
        return await self._own.wait(ref, exec_id)

    async def kill(
        self, ref: TaskRef, signal: int, *, exec_id: str = "", everyone: bool = False
    ) -> None:
        """Send a signal."""
        if socket := self._shim(ref):
            await self._call(socket, calls.kill(ref, signal, exec_id, everyone=everyone))
        else:
            await self._own.kill(ref, signal, exec_id=exec_id, everyone=everyone)

    async def exec(
        self, ref: TaskRef, exec_id: str, process: Mapping[str, Any], stdio: Stdio
    ) -> None:
        """Add a process to a running task."""
        if socket := self._shim(ref):
            await self._call(socket, calls.exec_(ref, exec_id, process, stdio))
        else:
            await self._own.exec(ref, exec_id, process, stdio)

    async def delete(self, ref: TaskRef, exec_id: str = "") -> ProcessView:
        """Forget a stopped task or exec; containerd's own tasks are containerd's to delete."""
        if socket := self._shim(ref):
            return await self._call(socket, calls.delete(ref, exec_id))
        return await self._own.delete(ref, exec_id)

    async def pids(self, ref: TaskRef) -> Pids:
        """List the processes of the container."""
        if socket := self._shim(ref):
            return await self._call(socket, calls.pids(ref))
        return await self._own.pids(ref)

    async def pause(self, ref: TaskRef) -> None:
        """Stop the task's processes where they are."""
        if socket := self._shim(ref):
            await self._call(socket, calls.pause(ref))
        else:
            await self._own.pause(ref)

    async def resume(self, ref: TaskRef) -> None:
        """Let a paused task go on."""
        if socket := self._shim(ref):
            await self._call(socket, calls.resume(ref))
        else:
            await self._own.resume(ref)

    async def update(self, ref: TaskRef, resources: Mapping[str, Any]) -> None:
        """Apply OCI LinuxResources."""
        if socket := self._shim(ref):
            await self._call(socket, calls.update(ref, resources))
        else:
            await self._own.update(ref, resources)

    async def stats(self, ref: TaskRef) -> Stats:
        """Measure the task."""
        if socket := self._shim(ref):
            return await self._call(socket, calls.stats(ref))
        return await self._own.stats(ref)

    async def close_io(self, ref: TaskRef, exec_id: str = "") -> None:
        """Close a process's stdin."""
        if socket := self._shim(ref):
            await self._call(socket, calls.close_io(ref, exec_id))
        else:
            await self._own.close_io(ref, exec_id)

    async def resize_pty(self, ref: TaskRef, width: int, height: int, exec_id: str = "") -> None:
        """Tell a terminal its size."""
        if socket := self._shim(ref):
            await self._call(socket, calls.resize_pty(ref, width, height, exec_id))
        else:
            await self._own.resize_pty(ref, width, height, exec_id)

    async def checkpoint(
        self, ref: TaskRef, options: CheckpointOptions, report: Report
    ) -> CheckpointResult:
        """Save a task, whoever owns it."""
        if socket := self._shim(ref):
            return await self._forward_checkpoint(socket, ref, options, report)
        return await self._own.checkpoint(ref, options, report)

    async def _forward_checkpoint(
        self, socket: str, ref: TaskRef, options: CheckpointOptions, report: Report
    ) -> CheckpointResult:
        """Have the owning shim do it; a cancellation is passed on, and its outcome awaited."""
        report(Progress(phase=Phase.PREFLIGHT, message="by the shim that owns the task"))
        stream = calls.checkpoint(ref, options)
        once = Call(
            path=stream.path,
            request=stream.request,
            response=stream.response,
            read=stream.read,
            namespace=ref.namespace,
            timeout_s=float("inf"),
        )
        async with _connected(socket) as client:
            asking = asyncio.ensure_future(_over(client, once))
            try:
                return await asyncio.shield(asking)
            except asyncio.CancelledError:
                cancelling = self._cancelled(socket, ref, stream.token, asking)
                return await shielded(cancelling, deadline_s=None)
            finally:
                asking.cancel()

    async def _cancelled(
        self, socket: str, ref: TaskRef, token: str, asking: asyncio.Future[CheckpointResult]
    ) -> CheckpointResult:
        """Cancel the shim's checkpoint; return its result where it was complete by then.

        Raises:
            asyncio.CancelledError: it was rolled back.
            DeadlineExceeded: the shim does not say.
        """
        try:
            with contextlib.suppress(CryoError):  # the wait below is bounded by itself
                await self._call(socket, calls.cancel(token, _LOOK_S))
            async with asyncio.timeout(self._rollback_s):
                return await asyncio.shield(asking)
        except Cancelled as error:
            raise asyncio.CancelledError from error
        except TimeoutError as error:
            message = (
                f"the checkpoint of task {ref} was cancelled, and its shim did not say within "
                f"{self._rollback_s:g} s how it ended"
            )
            raise DeadlineExceeded(message, remedy="see 'cryo tasks ls'") from error

    async def restore(self, ref: TaskRef, options: RestoreOptions, report: Report) -> RestoreResult:
        """Bring an image back as a new task of our own."""
        if self._shim(ref):
            message = f"task {ref} exists in namespace {ref.namespace}: a shim's"
            raise AlreadyExists(message, remedy="choose another id")
        return await self._own.restore(ref, options, report)

    async def images(self) -> list[ImageView]:
        """List the images under the configured folder, newest first."""
        return await self._own.images()

    async def inspect(self, image_path: str) -> dict[str, Any]:
        """Return an image's manifest as plain data."""
        return await self._own.inspect(image_path)

    async def verify(
        self, image_path: str, mode: Verify, report: Report, *, untrusted_folder: bool = False
    ) -> dict[str, Any]:
        """Check an image whole and against this host."""
        return await self._own.verify(image_path, mode, report, untrusted_folder=untrusted_folder)

    async def remove(self, image_path: str) -> None:
        """Delete an image that lies under the configured folder."""
        await self._own.remove(image_path)

    async def info(self) -> dict[str, str]:
        """Describe the host."""
        return await self._own.info()

    async def _theirs(self, namespace: str) -> list[TaskView]:
        """List the tasks of shims; one that does not answer is listed as its record has it."""
        folders = sorted(self._shims.glob(f"*/tasks/{namespace}/*"))
        views = await asyncio.gather(*(self._view(folder) for folder in folders))
        return [view for view in views if view is not None]

    async def _view(self, folder: Path) -> TaskView | None:
        """Describe a shim's task; None when it is just being made or has been deleted."""
        record = _record_in(folder)
        if record is None:
            return None
        try:
            found = await self._look(record)
        except NotFound:
            return _seen(record, "its shim does not know it") if _record_in(folder) else None
        except CryoError as error:
            return _seen(record, f"its shim does not answer: {error.message}")
        return _as_recorded(record, found.state, found.exit, record.warning)

    async def _look(self, record: TaskRecord) -> ProcessView:
        """Ask a shim how its task is, and give up soon: others are waiting to be listed."""
        async with self._asking, _connected(record.owner, _LOOK_S) as client:
            return await _over(client, replace(calls.state(record.ref, ""), timeout_s=_LOOK_S))

    # Last: below it, `list` in an annotation would mean this method.
    async def list(self, namespace: str) -> list[TaskView]:
        """List the namespace's tasks, by id, whoever owns them."""
        found = [*await self._own.list(namespace), *await self._theirs(namespace)]
        return sorted(found, key=lambda view: view.id)


def _record_in(folder: Path) -> TaskRecord | None:
    with contextlib.suppress(CryoError):
        return records.load(folder)
    return None


def _seen(record: TaskRecord, warning: str) -> TaskView:
    """Describe a task of which its owner says nothing, by its record and its process."""
    alive = procs.is_alive(record.pid, record.start)
    running = TaskState.PAUSED if record.paused else TaskState.RUNNING
    return _as_recorded(record, running if alive else TaskState.STOPPED, record.exit, warning)


def _as_recorded(
    record: TaskRecord, state: TaskState, ended: Exit | None, warning: str
) -> TaskView:
    return TaskView(
        namespace=record.ref.namespace,
        id=record.ref.id,
        bundle=record.bundle,
        pid=record.pid,
        state=state,
        created_at=record.created_at,
        restored_from=record.image_path,
        gpu=record.gpu,
        exit=ended,
        execs=tuple(sorted(record.execs)),
        warning=warning,
    )


@contextlib.asynccontextmanager
async def _connected(socket: str, timeout_s: float = _CONNECT_S) -> AsyncIterator[Client]:
    """Connect to a shim for one call: a connection that is kept outlives its shim."""
    client = await Client.connect(socket, timeout_s)
    try:
        yield client
    finally:
        await client.close()


async def _over(client: Client, call: Call[_T]) -> _T:
    """Make a call of the client library over ttrpc."""
    service, _, method = call.path.removeprefix("/").partition("/")
    timeout_s = _USUAL_S if call.timeout_s is None else call.timeout_s
    answer = await client.call(
        service,
        method,
        call.request,
        call.response,
        timeout_s=None if timeout_s == float("inf") else timeout_s,
        metadata={NAMESPACE_KEY: call.namespace},
    )
    return call.read(answer)
