"""What both transports share: where a sidecar is, and how long calls may take."""

from __future__ import annotations

from abc import ABC, abstractmethod

from shim.client import calls
from shim.model import DEFAULT_ADDRESS, DEFAULT_NAMESPACE, TaskRef
from shim.service import address as addresses
from shim.tracing import setup


class BaseTransport(ABC):
    """The address of a sidecar, the namespace of plain task ids, and the timeout of calls."""

    def __init__(
        self,
        address: str = DEFAULT_ADDRESS,
        namespace: str = DEFAULT_NAMESPACE,
        *,
        timeout_s: float = calls.DEFAULT_TIMEOUT_S,
    ) -> None:
        """Take the sidecar's address, the namespace of plain task ids, and the timeout of calls.

        The timeout is for read-only calls, SIGKILL, `close_io` and `resize_pty`. Calls that change
        a task or an image are bounded by its owner's settings, and `wait` has no timeout. Nothing
        is sent before the first call.
        """
        self.address = address
        self.namespace = namespace
        self._timeout_s = timeout_s
        setup.set_up("cryo")
        self._open(addresses.target(address))

    @abstractmethod
    def _open(self, target: str) -> None:
        """Create the channel to a gRPC target; it connects with the first call."""

    def _ref(self, task: str | TaskRef) -> TaskRef:
        return calls.ref_of(task, self.namespace)
