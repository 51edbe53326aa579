"""Finds the tasks that shims own, by the records in the shared state directory.

Every task has exactly one owner process, and only that runs runsc on it. A shim writes its socket
into the record of each of its tasks; the sidecar forwards calls for them to it, byte for byte.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from shim.errors import Cancelled, CryoError, DeadlineExceeded, NotFound
from shim.host import log_fields, procs, trace_context
from shim.host.shielded import shielded
from shim.model import Exit, Phase, ProcessView, Progress, Report, TaskRef, TaskView
from shim.service import cryo_operations, task_messages, task_operations
from shim.service.operation import Operation
from shim.service.ttrpc.client import Client
from shim.service.ttrpc.envelope import NAMESPACE_KEY
from shim.state import TaskState
from shim.task import record as records
from shim.task.record import TaskRecord

_CONNECT_S = 10.0
# A shim that takes longer for State hangs.
_STATE_S = 5.0
# Shims that are queried at the same time: each takes a file descriptor.
_AT_ONCE = 64


class Shim:
    """A shim process, by the socket that it serves; each call has its own connection."""

    def __init__(self, socket: str, rollback_s: float) -> None:
        """Take the socket, and how long the shim may take to roll back."""
        self._socket = socket
        self._rollback_s = rollback_s

    async def forward(
        self,
        operation: Operation[Any, Any],
        payload: bytes,
        *,
        namespace: str,
        timeout_s: float | None,
        connect_s: float = _CONNECT_S,
    ) -> bytes:
        """Send an encoded request and return the encoded response."""
        async with _connected(self._socket, connect_s) as client:
            return await client.exchange(
                operation.service,
                operation.name,
                payload,
                timeout_s=timeout_s,
                metadata={NAMESPACE_KEY: namespace, **trace_context.metadata()},
            )

    async def stream(
        self, operation: Operation[Any, Any], request: Any, ref: TaskRef, report: Report
    ) -> bytes:
        """Run a streaming operation in the shim; return its last update.

        A cancellation is sent to the shim by token, and its outcome awaited.
        """
        report(Progress(phase=Phase.PREFLIGHT, message="by the shim that owns the task"))
        token = request.operation = log_fields.operation_id()
        payload = request.SerializeToString()
        asking = asyncio.ensure_future(
            self.forward(operation, payload, namespace=ref.namespace, timeout_s=None)
        )
        try:
            return await asyncio.shield(asking)
        except asyncio.CancelledError:
            return await shielded(self._cancelled(ref, token, asking), deadline_s=None)
        finally:
            asking.cancel()

    async def _cancelled(self, ref: TaskRef, token: str, asking: asyncio.Future[bytes]) -> bytes:
        """Cancel a streaming operation; return its result if it completed first.

        Raises:
            asyncio.CancelledError: it was rolled back.
            DeadlineExceeded: the shim does not answer.
        """
        try:
            async with asyncio.timeout(self._rollback_s):
                await self._cancel(token)
                return await asyncio.shield(asking)
        except Cancelled as error:
            raise asyncio.CancelledError from error
        except TimeoutError as error:
            message = (
                f"the checkpoint of task {ref} was cancelled, and its shim did not report the "
                f"outcome within {self._rollback_s:g} s"
            )
            raise DeadlineExceeded(message, remedy="see its state in 'cryo tasks ls'") from error

    async def _cancel(self, token: str) -> None:
        call = cryo_operations.Cancel
        request = call.request(operation=token).SerializeToString()
        with contextlib.suppress(CryoError):  # the operation's own response has the outcome
            await self.forward(call, request, namespace="", timeout_s=_STATE_S)


class Shims:
    """The shims of one state directory."""

    def __init__(self, state: Path, rollback_s: float) -> None:
        """Take the state directory, and how long a shim may take to roll back."""
        self._shims = state / "shims"
        self._rollback_s = rollback_s
        self._asking = asyncio.Semaphore(_AT_ONCE)

    def owner(self, ref: TaskRef) -> Shim | None:
        """Return the shim that owns a task."""
        for folder in self._shims.glob(f"*/tasks/{ref.namespace}/{ref.id}"):
            record = _record_in(folder)
            if record is not None and record.owner:
                return Shim(record.owner, self._rollback_s)
        return None

    # -- listing -------------------------------------------------------------------------------

    def namespaces(self) -> set[str]:
        """Return the namespaces in which shims have tasks."""
        return {folder.parent.name for folder in self._shims.glob("*/tasks/*/*")}

    async def list(self, namespace: str) -> list[TaskView]:
        """List the tasks of a namespace; if a shim does not answer, from the record."""
        folders = sorted(self._shims.glob(f"*/tasks/{namespace}/*"))
        views = await asyncio.gather(*(self._view(folder) for folder in folders))
        return [view for view in views if view is not None]

    async def _view(self, folder: Path) -> TaskView | None:
        """Describe a shim's task; None while it is created or after its deletion."""
        record = _record_in(folder)
        if record is None:
            return None
        try:
            found = await self._state(record)
        except NotFound:
            return _unanswered(record, "its shim has no such task") if _record_in(folder) else None
        except CryoError as error:
            return _unanswered(record, f"its shim does not answer: {error.message}")
        return _view_of(record, found.state, found.exit, record.warning)

    async def _state(self, record: TaskRecord) -> ProcessView:
        call = task_operations.State
        request = call.request(id=record.ref.id).SerializeToString()
        async with self._asking:
            answer = await Shim(record.owner, self._rollback_s).forward(
                call,
                request,
                namespace=record.ref.namespace,
                timeout_s=_STATE_S,
                connect_s=_STATE_S,
            )
        return task_messages.from_state(call.response.FromString(answer))


def _record_in(folder: Path) -> TaskRecord | None:
    with contextlib.suppress(CryoError):
        return records.load(folder)
    return None


def _unanswered(record: TaskRecord, warning: str) -> TaskView:
    """Describe a task whose owner does not answer, by its record and its process."""
    alive = procs.is_alive(record.pid, record.start)
    running = TaskState.PAUSED if record.paused else TaskState.RUNNING
    return _view_of(record, running if alive else TaskState.STOPPED, record.exit, warning)


def _view_of(record: TaskRecord, state: TaskState, exit_: Exit | None, warning: str) -> TaskView:
    return TaskView(
        namespace=record.ref.namespace,
        id=record.ref.id,
        bundle=record.bundle,
        pid=record.pid,
        state=state,
        created_at=record.created_at,
        restored_from=record.image_path,
        gpu=record.gpu,
        exit=exit_,
        execs=tuple(sorted(record.execs)),
        warning=warning,
    )


@contextlib.asynccontextmanager
async def _connected(socket: str, timeout_s: float) -> AsyncIterator[Client]:
    """Connect to a shim for one call: a kept connection could outlive its shim."""
    client = await Client.connect(socket, timeout_s)
    try:
        yield client
    finally:
        await client.close()
