"""The sidecar's Task service over ttrpc: for a containerd that keeps no task it reaches over gRPC.

containerd 2.4 takes a gRPC connection that has not been used yet for one that was lost, and gives
the task up (core/runtime/v2/shim.go, grpcDialContext).
"""

from __future__ import annotations

import socket

from shim.errors import Unavailable
from shim.task.port import TaskService
from shim.wire import ttrpc_task
from shim.wire.drain import Drain
from shim.wire.endpoint import Endpoint
from shim.wire.task_methods import TaskMethods
from shim.wire.ttrpc import Server


class TtrpcEdge:
    """Serves one core on one endpoint, from `start` to `stop`."""

    def __init__(self, core: TaskService, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        self._drain = Drain()
        self._server = Server(ttrpc_task.services(TaskMethods(core, self._drain)))

    def start(self) -> None:
        """Listen.

        Raises:
            AlreadyExists: another sidecar serves the address.
            Unavailable: the socket cannot be bound.
        """
        self._endpoint.claim()
        try:
            self._server.serve(self._bound())
        except BaseException:
            self._endpoint.release()
            raise

    async def stop(self, grace_s: float) -> None:
        """Refuse new calls, end every Wait, let the others end for `grace_s` seconds, and close."""
        self._drain.close()
        await self._server.close(grace_s)
        self._endpoint.path.unlink(missing_ok=True)
        self._endpoint.release()

    def _bound(self) -> socket.socket:
        path = self._endpoint.path
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            with self._endpoint.binding():
                listener.bind(str(path))
            listener.listen()
        except OSError as error:
            listener.close()
            message = f"cannot listen on {path}: {error}"
            raise Unavailable(message, remedy="check the folder, or choose another one") from error
        return listener
