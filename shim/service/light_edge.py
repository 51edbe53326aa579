"""Serves every operation over ttrpc, on a socket beside the sidecar's own.

Clients that take no progress call them there: to load gRPC takes `cryo` longer than most calls, and
each update of a stream costs both sides as much as a short call.
"""

from __future__ import annotations

from pathlib import Path

from shim.model import DEFAULT_NAMESPACE
from shim.service.address import light_path
from shim.service.endpoint import Endpoint
from shim.service.service import Service
from shim.service.tables import CRYO, TASK
from shim.service.ttrpc.limits import Limits
from shim.service.ttrpc.method import Services
from shim.service.ttrpc.server import Server
from shim.service.ttrpc_edge import Served

# Every call has a connection of its own, and a Wait takes as long as its task.
_LIMITS = Limits(connections=4096)


def _services(service: Service) -> Services:
    """Return every operation; one that streams has one response, its result."""
    return {
        table.service: {
            name: Served(operation, service, DEFAULT_NAMESPACE)
            for name, operation in table.operations.items()
        }
        for table in (TASK, CRYO)
    }


class LightEdge:
    """Serves beside an endpoint that its caller has locked, with the same mode and group."""

    def __init__(self, service: Service, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        path = light_path(str(endpoint.path))
        self._path = None if path is None else Path(path)
        # Who may connect is decided by the mode of the socket, as on the endpoint itself.
        self._server = Server(_services(service), _LIMITS, admits=lambda _: True)

    def start(self) -> None:
        """Listen, unless the path of the socket would be too long.

        Raises:
            Unavailable: the socket cannot be bound.
        """
        if self._path is not None:
            self._path.unlink(missing_ok=True)
            self._server.serve(self._endpoint.listener(self._path))

    async def stop(self, grace_s: float) -> None:
        """Refuse new calls, let others end for `grace_s` seconds, and close."""
        if self._path is not None:
            self._path.unlink(missing_ok=True)
        await self._server.close(grace_s)
