"""The sidecar's view of all tasks: its own, and those that shims own, which it forwards to.

Every task has exactly one owner process; nobody else runs runsc on it. A shim writes its socket
into the record of each of its tasks, below the same state folder.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from shim.client import calls
from shim.client.calls import Call
from shim.errors import AlreadyExists, CryoError, NotFound, Unavailable
from shim.host import procs
from shim.model import (
    CheckpointOptions,
    CheckpointResult,
    CreateRequest,
    Exit,
    ImageView,
    Phase,
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
_POLL_S = 0.1


class Relay:
    """The TaskService that the sidecar serves."""

    def __init__(self, own: Tasks, state: Path, rollback_s: float) -> None:
        """Take the sidecar's own tasks, the state folder, and how long a shim may roll back."""
        self._own = own
        self._shims = state / "shims"
        self._rollback_s = rollback_s
        self._clients: dict[str, Client] = {}

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

    async def _client(self, socket: str) -> Client:
        known = self._clients.get(socket)
        if known is None or known.closed:
            known = self._clients[socket] = await Client.connect(socket)
        return known

    async def _call(self, socket: str, call: Call[_T]) -> _T:
        client = await self._client(socket)
        return await _over(client, call)

    async def recover(self) -> None:
        """Take over our own tasks; those of shims need nobody."""
        await self._own.recover()

    async def tidy(self) -> None:
        """Remove what interrupted checkpoints left among the images."""
        await self._own.tidy()

    async def close(self) -> None:
        """Hang up on the shims, and close our own tasks."""
        for client in self._clients.values():
            await client.close()
        self._clients.clear()
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

    async def pids(self, ref: TaskRef) -> list[int]:
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
        """Have the owning shim do it, over a connection whose end cancels it there."""
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
        client = await Client.connect(socket)
        try:
            return await _over(client, once)
        except asyncio.CancelledError:
            await client.close()
            await asyncio.shield(self._rolled_back(socket, ref))
            raise
        finally:
            await client.close()

    async def _rolled_back(self, socket: str, ref: TaskRef) -> None:
        """Wait until the shim has undone what was cancelled."""
        async with asyncio.timeout(self._rollback_s):
            while await self._checkpointing(socket, ref):  # noqa: ASYNC110 - another process's state
                await asyncio.sleep(_POLL_S)

    async def _checkpointing(self, socket: str, ref: TaskRef) -> bool:
        view = await self._call(socket, calls.state(ref, ""))
        return view.state is TaskState.CHECKPOINTING

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

    async def verify(self, image_path: str, mode: Verify, report: Report) -> dict[str, Any]:
        """Check an image whole and against this host."""
        return await self._own.verify(image_path, mode, report)

    async def remove(self, image_path: str) -> None:
        """Delete an image that lies under the configured folder."""
        await self._own.remove(image_path)

    async def info(self) -> dict[str, str]:
        """Describe the host."""
        return await self._own.info()

    async def _theirs(self, namespace: str) -> list[TaskView]:
        """List the tasks of shims; one that does not answer is listed as its record has it."""
        views: list[TaskView] = []
        for folder in sorted(self._shims.glob(f"*/tasks/{namespace}/*")):
            with contextlib.suppress(CryoError):
                record = records.load(folder)
                if record is not None:
                    views.append(await self._view(record))
        return views

    async def _view(self, record: TaskRecord) -> TaskView:
        warning, state, ended = "", TaskState.STOPPED, record.exit
        try:
            found = await self._call(record.owner, calls.state(record.ref, ""))
            state, ended = found.state, found.exit
        except (NotFound, Unavailable) as error:
            alive = procs.is_alive(record.pid, record.start)
            state = TaskState.RUNNING if alive else TaskState.STOPPED
            warning = f"its shim does not answer: {error.message}"
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
            warning=warning or record.warning,
        )

    # Last: below it, `list` in an annotation would mean this method.
    async def list(self, namespace: str) -> list[TaskView]:
        """List the namespace's tasks, by id, whoever owns them."""
        found = [*await self._own.list(namespace), *await self._theirs(namespace)]
        return sorted(found, key=lambda view: view.id)


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
