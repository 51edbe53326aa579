"""The sidecar's servers: gRPC with health and reflection, and ttrpc beside it for light clients."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import grpc.aio
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from shim.errors import Unavailable
from shim.service import grpc_edge
from shim.service.endpoint import Endpoint
from shim.service.light_edge import LightEdge
from shim.service.service import Service
from shim.service.tables import CRYO, TASK

MESSAGE_MAX = 4 << 20

_SERVICES = (TASK.service, CRYO.service)
_EVERYTHING = ""  # health's name for the server as a whole

_OPTIONS = (
    ("grpc.max_receive_message_length", MESSAGE_MAX),
    ("grpc.max_send_message_length", MESSAGE_MAX),
    # Do not disconnect a client for its keepalive pings during a long Wait.
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_ping_strikes", 0),
    ("grpc.so_reuseport", 0),
)

# Time for calls to send their last message after the core has finished.
_GOODBYE_S = 2.0


class Server:
    """Serves the operations on one endpoint, from `start` to `stop`."""

    def __init__(self, service: Service, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        self._service = service
        self._health = health.aio.HealthServicer()
        self._light = LightEdge(service, endpoint)
        self._server = grpc.aio.server(options=_OPTIONS)
        grpc_edge.add_to(self._server, service)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        names = (*_SERVICES, health.SERVICE_NAME, reflection.SERVICE_NAME)
        reflection.enable_server_reflection(names, self._server)

    async def start(self) -> None:
        """Listen.

        Raises:
            AlreadyExists: another sidecar serves the address.
            Unavailable: the socket cannot be bound.
        """
        self._endpoint.lock()
        try:
            self._bind()
            await self._server.start()
            self._light.start()
        except BaseException:
            self._endpoint.release()
            raise
        for name in (_EVERYTHING, *_SERVICES):
            await self._health.set(name, health_pb2.HealthCheckResponse.SERVING)

    async def stop(self, settle: Callable[[], Awaitable[None]], grace_s: float) -> None:
        """Refuse new calls, end every Wait, let `settle` finish the others, and close.

        `settle` has `grace_s` seconds; calls that still run afterwards are cancelled.
        """
        await self._health.enter_graceful_shutdown()
        stopping = asyncio.create_task(self._server.stop(grace_s + _GOODBYE_S))
        leaving = asyncio.create_task(self._light.stop(grace_s + _GOODBYE_S))
        self._service.waits.close()
        try:
            async with asyncio.timeout(grace_s):
                await settle()
        finally:
            await self._server.stop(_GOODBYE_S)
            await stopping
            await asyncio.wait({leaving}, timeout=_GOODBYE_S)
            leaving.cancel()
            await asyncio.wait({leaving})
            self._endpoint.release()

    def _bind(self) -> None:
        path = self._endpoint.path
        try:
            with self._endpoint.binding():
                self._server.add_insecure_port(f"unix:{path}")
        except (RuntimeError, OSError) as error:
            message = f"cannot listen on {path}: {error}"
            raise Unavailable(message, remedy="check its directory, or choose another") from error
