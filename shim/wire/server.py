"""The gRPC server of the sidecar: the two services, health and reflection on a unix socket."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import grpc.aio
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from shim.api.containerd.task.v3 import shim_pb2, shim_pb2_grpc
from shim.api.cryo.v1 import cryo_pb2, cryo_pb2_grpc
from shim.errors import Unavailable
from shim.task.port import TaskService
from shim.wire.cryo_service import CryoServicer
from shim.wire.drain import Drain
from shim.wire.edge import Edge
from shim.wire.endpoint import Endpoint
from shim.wire.task_service import TaskServicer

MESSAGE_MAX = 4 << 20

_TASK = shim_pb2.DESCRIPTOR.services_by_name["Task"].full_name
_CRYO = cryo_pb2.DESCRIPTOR.services_by_name["Cryo"].full_name
_EVERYTHING = ""  # health's name for the server as a whole

_OPTIONS = (
    ("grpc.max_receive_message_length", MESSAGE_MAX),
    ("grpc.max_send_message_length", MESSAGE_MAX),
    # A client that pings on a long Wait must not be cut off for it.
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_ping_strikes", 0),
    ("grpc.so_reuseport", 0),
)

# What a call may still take to send its last words, once the core is done.
_GOODBYE_S = 2.0


class Server:
    """Serves one core on one endpoint, from `start` to `stop`."""

    def __init__(self, core: TaskService, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        self._drain = Drain()
        self._health = health.aio.HealthServicer()
        self._server = grpc.aio.server(interceptors=(Edge(_TASK, _CRYO),), options=_OPTIONS)
        shim_pb2_grpc.add_TaskServicer_to_server(TaskServicer(core, self._drain), self._server)
        cryo_pb2_grpc.add_CryoServicer_to_server(CryoServicer(core), self._server)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        names = (_TASK, _CRYO, health.SERVICE_NAME, reflection.SERVICE_NAME)
        reflection.enable_server_reflection(names, self._server)

    async def start(self) -> None:
        """Listen.

        Raises:
            AlreadyExists: another sidecar serves the address.
            Unavailable: the socket cannot be bound.
        """
        self._endpoint.claim()
        try:
            self._bind()
            await self._server.start()
        except BaseException:
            self._endpoint.release()
            raise
        for name in (_EVERYTHING, _TASK, _CRYO):
            await self._health.set(name, health_pb2.HealthCheckResponse.SERVING)

    async def stop(self, settle: Callable[[], Awaitable[None]], grace_s: float) -> None:
        """Refuse new calls, end every Wait, let `settle` finish what is under way, and close.

        `settle` has `grace_s` seconds; calls that are still there afterwards are cut.
        """
        await self._health.enter_graceful_shutdown()
        stopping = asyncio.create_task(self._server.stop(grace_s + _GOODBYE_S))
        self._drain.close()
        try:
            async with asyncio.timeout(grace_s):
                await settle()
        finally:
            await self._server.stop(_GOODBYE_S)
            await stopping
            self._endpoint.release()

    def _bind(self) -> None:
        path = self._endpoint.path
        try:
            with self._endpoint.binding():
                self._server.add_insecure_port(f"unix:{path}")
        except (RuntimeError, OSError) as error:
            message = f"cannot listen on {path}: {error}"
            raise Unavailable(message, remedy="check the folder, or choose another one") from error
