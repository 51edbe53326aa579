"""Handles the requests of both servers: runs each, or forwards it to the owner of its task."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, TypeAlias

from google.protobuf.message import Message
from msgspec.structs import replace

from shim.api.containerd.task.v3 import shim_pb2
from shim.errors import AlreadyExists, class_of
from shim.host import log_fields, trace_context
from shim.host.text import printable
from shim.model import DEFAULT_NAMESPACE, Progress, Report, TaskRef, TaskView
from shim.service import answered, convert
from shim.service.answered import Answered, Observe
from shim.service.calls_under_way import CallsUnderWay
from shim.service.event_hub import EventHub
from shim.service.operation import ENDLESS, Incoming, Operation, Owner, Send
from shim.service.progress_log import log_progress
from shim.service.running import RunningOperations
from shim.service.wait_gate import WaitGate
from shim.service.watched import Watch, begun, unwatched, watching

if TYPE_CHECKING:
    from shim.service.shims import Shim, Shims
    from shim.task.tasks import Tasks

_log = logging.getLogger(__name__)

# An operation's deadline is this much before that of its call, so that the caller receives an error
# that names what is late; at most a tenth of a short deadline.
_MARGIN_S = 1.0
_FORWARDED_S = 60.0
# Callers choose the token of an operation.
_TOKEN_CHARS = 64

Write: TypeAlias = Callable[[Progress], Awaitable[None]]
Shutdown: TypeAlias = Callable[[shim_pb2.ShutdownRequest], None]


def ignore(_request: shim_pb2.ShutdownRequest) -> None:
    """Ignore Shutdown: containerd sends it after every Delete, also if other tasks are left."""


@dataclass(frozen=True, kw_only=True)
class Beside:
    """Metadata of a call: its namespace, and the time until its deadline."""

    namespace: str = DEFAULT_NAMESPACE
    remaining_s: float | None = None
    traceparent: str = ""


class Service:
    """Answers every operation for one server."""

    def __init__(
        self,
        core: Tasks,
        *,
        shims: Shims | None = None,
        shutdown: Shutdown = ignore,
        observe: Observe = answered.ignore,
        watch: Watch = unwatched,
    ) -> None:
        """Take the server's own tasks, the shims to forward to, and the handler of Shutdown.

        `observe` is called with each request that was answered, `watch` is entered for each with
        progress.
        """
        self.core = core
        self.shutdown = shutdown
        self.running = RunningOperations()
        self.events = EventHub()
        self.waits = WaitGate()
        self._shims = shims
        self._observe = observe
        self._watch = watch
        self._under_way = CallsUnderWay()

    async def unary(self, operation: Operation[Any, Any], payload: bytes, beside: Beside) -> bytes:
        """Answer a call that does not stream."""
        with self._observed(operation, beside) as seen:
            seen.response = await self._unary(operation, payload, beside, seen)
            return seen.response

    async def _unary(
        self, operation: Operation[Any, Any], payload: bytes, beside: Beside, seen: _Seen
    ) -> bytes:
        request = operation.parse(payload)
        call = self._incoming(request, beside)
        if operation.owner is Owner.SERVER:
            return await _answered(operation, call, request)
        async with self._under_way.one(call.ref, last=_is_deletion(request)):
            shim = self._shim_of(operation, call.ref)
            if shim is None:
                return await _answered(operation, call, request)
            timeout_s = _FORWARDED_S if operation.timeout_s is None else operation.timeout_s
            timeout_s = min(timeout_s, beside.remaining_s or ENDLESS)
            seen.forwarded = True
            return await shim.forward(
                operation,
                payload,
                namespace=call.namespace,
                timeout_s=None if timeout_s == ENDLESS else timeout_s,
            )

    async def streaming(
        self, operation: Operation[Any, Any], payload: bytes, beside: Beside, write: Write
    ) -> bytes:
        """Answer a call that streams: write its progress, and return the last update.

        A cancelled call is rolled back before this returns.
        """
        with self._observed(operation, beside) as seen:
            request = operation.parse(payload)
            _bound(request, beside.remaining_s)
            call = self._incoming(request, beside)
            begin = self._begin(operation, call, request, seen)
            token = getattr(request, "operation", "")
            started = begun(operation.name, call.namespace, request, forwarded=seen.forwarded)
            with self._watch(started) as watcher:
                async with self.running.hold(token, watching(watcher, begin)) as running:
                    async for progress in running.progress():
                        await write(progress)
                    seen.response = await running.result()
                    return seen.response

    async def following(
        self, operation: Operation[Any, Any], payload: bytes, beside: Beside, send: Send
    ) -> None:
        """Answer a call that follows something, until it is cancelled or the server stops.

        Raises:
            Unavailable: the server stops.
        """
        with self._observed(operation, beside):
            request = operation.parse(payload)
            call = replace(self._incoming(request, beside), send=send)
            await self.waits.wait(operation.handler(call, request))

    def _begin(
        self, operation: Operation[Any, Any], call: Incoming, request: Message, seen: _Seen
    ) -> Callable[[Report], Coroutine[Any, Any, bytes]]:
        """Return the function that runs a streaming operation, here or in the owning shim."""
        if operation.owner is not Owner.SERVER:
            shim = self._shim_of(operation, call.ref)
            if shim is not None:
                seen.forwarded = True
                return partial(shim.stream, operation, request, call.ref)

        async def run(report: Report) -> bytes:
            return await _answered(operation, replace(call, report=report), request)

        return run

    async def list_tasks(self, namespace: str) -> list[TaskView]:
        """List the tasks of a namespace, by id: this server's and those of shims."""
        found = await self.core.list(namespace)
        if self._shims is not None:
            found = [*found, *await self._shims.list(namespace)]
        return sorted(found, key=lambda view: view.id)

    async def namespaces(self) -> list[str]:
        """List the namespaces that have tasks, of this server or of shims."""
        found = set(await self.core.namespaces())
        if self._shims is not None:
            found |= self._shims.namespaces()
        return sorted(found)

    def _incoming(self, request: Message, beside: Beside) -> Incoming:
        namespace = getattr(request, "namespace", "") or beside.namespace
        id_ = getattr(request, "id", "")
        token = printable(getattr(request, "operation", ""), _TOKEN_CHARS)
        log_fields.add(operation=token, namespace=namespace, task=id_)
        return Incoming(service=self, namespace=namespace, report=log_progress, id=id_)

    @contextlib.contextmanager
    def _observed(self, operation: Operation[Any, Any], beside: Beside) -> Iterator[_Seen]:
        """Log, report and trace a request; its error is logged by its server."""
        with _traced(operation, beside), self._reported(operation) as seen:
            yield seen

    @contextlib.contextmanager
    def _reported(self, operation: Operation[Any, Any]) -> Iterator[_Seen]:
        began, seen = time.monotonic(), _Seen()
        try:
            yield seen
        except BaseException as error:
            left = operation.follows and isinstance(error, asyncio.CancelledError)
            seen.error = "" if left else class_of(error)
            raise
        finally:
            one = Answered(
                service=operation.service,
                method=operation.name,
                took_s=round(time.monotonic() - began, 6),
                forwarded=seen.forwarded,
                error=seen.error,
                response=seen.response,
            )
            _log_end(one, logging.INFO if operation.streams else logging.DEBUG)
            self._observe(one)

    def _shim_of(self, operation: Operation[Any, Any], ref: TaskRef) -> Shim | None:
        """Return the shim that owns a task; None when no shim does.

        Raises:
            AlreadyExists: the operation creates a task, and a shim owns one of that name.
        """
        if self._shims is None or self.core.has(ref):
            return None
        if operation.owner is Owner.NEW_TASK:
            self.admit(ref)
            return None
        return self._shims.owner(ref)

    def admit(self, ref: TaskRef) -> None:
        """Check that no shim has a task of that name.

        Raises:
            AlreadyExists: one has.
        """
        if self._shims is not None and self._shims.owner(ref) is not None:
            message = f"task {ref} exists in namespace {ref.namespace}, owned by a shim"
            raise AlreadyExists(message, remedy="choose another id, or delete that task")


@dataclass(slots=True)
class _Seen:
    """What becomes known of a request while it is answered."""

    forwarded: bool = False
    error: str = ""
    response: bytes = b""


def _traced(operation: Operation[Any, Any], beside: Beside) -> AbstractContextManager[None]:
    """Make the span of a request; what takes as long as its task or client has none."""
    if operation.timeout_s == ENDLESS and (operation.follows or not operation.streams):
        return contextlib.nullcontext()
    return trace_context.server(operation.path, beside.traceparent)


def _log_end(one: Answered, level: int) -> None:
    fields = {"method": one.method, "took_s": one.took_s, "forwarded": one.forwarded}
    if one.error:
        fields["error"] = one.error
    _log.log(
        level,
        "%s %s",
        one.method,
        "failed" if one.error else "ended",
        extra=log_fields.attached(fields),
    )


async def _answered(operation: Operation[Any, Any], call: Incoming, request: Message) -> bytes:
    response: Message = await operation.handler(call, request)
    return response.SerializeToString()


def _is_deletion(request: Message) -> bool:
    return isinstance(request, shim_pb2.DeleteRequest) and not request.exec_id


def _bound(request: Any, remaining_s: float | None) -> None:
    """Shorten the timeout in a request to what the deadline of its call leaves."""
    if remaining_s is None or "timeout" not in request.DESCRIPTOR.fields_by_name:
        return
    left_s = max(remaining_s - min(_MARGIN_S, remaining_s / 10), 0.001)
    timeout_s = min(convert.from_duration(request.timeout) or left_s, left_s)
    request.timeout.CopyFrom(convert.to_duration(timeout_s))
