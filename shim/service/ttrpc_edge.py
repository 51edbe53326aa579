"""Serves the operations over ttrpc: those of a shim, and those of the sidecar for containerd.

containerd 2.4 takes a gRPC connection that was not used yet for a lost one, and drops the task
(core/runtime/v2/shim.go, grpcDialContext); over ttrpc it does not.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from shim.host import trace_context
from shim.model import DEFAULT_NAMESPACE, Progress
from shim.service import (  # those with operations that a shim serves
    cryo_operations,
    examine_operations,
    timeline_operations,
)
from shim.service.cryo_table import CRYO
from shim.service.endpoint import Endpoint
from shim.service.operation import Operation
from shim.service.progress_log import log_progress
from shim.service.service import Beside, Service
from shim.service.task_operations import TASK
from shim.service.ttrpc.envelope import NAMESPACE_KEY
from shim.service.ttrpc.method import Call, Services
from shim.service.ttrpc.server import Server

__all__ = ["cryo_operations", "examine_operations", "timeline_operations"]

V2 = "containerd.task.v2.Task"
V3 = TASK.service


@dataclass(frozen=True)
class Served:
    """One operation as a ttrpc server runs it. ttrpc here is unary: progress goes to the log."""

    operation: Operation[Any, Any]
    service: Service
    namespace: str

    @property
    def completes(self) -> bool:
        """Whether a call runs to its end although its peer has disconnected."""
        return self.operation.completes

    async def run(self, payload: bytes, call: Call) -> bytes:
        """Answer one encoded request."""
        beside = Beside(
            namespace=call.metadata.get(NAMESPACE_KEY, self.namespace),
            traceparent=call.metadata.get(trace_context.KEY, ""),
        )
        if self.operation.streams:
            return await self.service.streaming(self.operation, payload, beside, _log)
        return await self.service.unary(self.operation, payload, beside)


async def _log(progress: Progress) -> None:
    log_progress(progress)


def task_services(service: Service, namespace: str = DEFAULT_NAMESPACE) -> Services:
    """Return containerd's Task service: v2 and v3 have the same messages, field for field.

    A shim serves one namespace, and containerd 1.x sends none in its calls: `namespace`, which
    `start` received, is then the default.
    """
    table = {
        name: Served(operation, service, namespace) for name, operation in TASK.operations.items()
    }
    return {V2: table, V3: table}


def shim_services(service: Service, namespace: str = DEFAULT_NAMESPACE) -> Services:
    """Return what a shim serves: the Task service, and what the sidecar forwards of cryo.v1.

    A checkpoint has one response, its result. A caller cancels it by closing the connection, or
    by its token, which returns the outcome.
    """
    ours = {
        name: Served(operation, service, namespace)
        for name, operation in CRYO.operations.items()
        if operation.in_shims
    }
    return {**task_services(service, namespace), CRYO.service: ours}


class TtrpcEdge:
    """Serves containerd's Task service on one endpoint, from `start` to `stop`."""

    def __init__(self, service: Service, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        self._service = service
        self._server = Server(task_services(service))

    def start(self) -> None:
        """Listen.

        Raises:
            AlreadyExists: another sidecar serves the address.
            Unavailable: the socket cannot be bound.
        """
        self._endpoint.lock()
        try:
            self._server.serve(self._endpoint.listener())
        except BaseException:
            self._endpoint.release()
            raise

    async def stop(self, grace_s: float) -> None:
        """Refuse new calls, end every Wait, let others end for `grace_s` seconds, and close."""
        self._service.waits.close()
        await self._server.close(grace_s)
        self._endpoint.path.unlink(missing_ok=True)
        self._endpoint.release()
