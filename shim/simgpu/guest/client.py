"""A connection to the simulated device."""

from __future__ import annotations

import os
import socket
import threading
from typing import Any

from shim.simgpu.guest import frames

CHUNK = 1 << 20
_TIMEOUT_S = 60.0


class DeviceLost(Exception):
    """The connection broke, so the client's device memory is lost."""


class DeviceError(Exception):
    """The device rejected a request; the argument is its reason."""


class DeviceClient:
    """A client of the device; its memory is freed when its connection closes."""

    def __init__(self, path: str, *, name: str = "") -> None:
        self._lock = threading.Lock()
        self._connection = socket.socket(socket.AF_UNIX)
        self._connection.settimeout(_TIMEOUT_S)
        try:
            self._connection.connect(path)
            self.call({"op": "hello", "pid": os.getpid(), "name": name})
        except BaseException:
            self._connection.close()
            raise

    def call(
        self, header: dict[str, Any], payload: bytes | memoryview = b""
    ) -> tuple[dict[str, Any], bytearray]:
        """Send one request and return the reply.

        Raises:
            DeviceLost: the connection broke before the reply.
            DeviceError: the device rejected the request.
        """
        with self._lock:
            try:
                frames.send(self._connection, header, payload)
                answer, data = frames.receive(self._connection)
            except (OSError, EOFError, ValueError, frames.Malformed) as error:
                reason = f"{header.get('op')}: {type(error).__name__} {error}".strip()
                raise DeviceLost(reason) from error
        if "error" in answer:
            raise DeviceError(str(answer["error"]))
        return answer, data

    def alloc(self, key: str, size: int, generation: int) -> int:
        """Allocate `size` bytes of device memory; return their handle."""
        return int(
            self.call({"op": "alloc", "key": key, "bytes": size, "generation": generation})[0][
                "handle"
            ]
        )

    def write(self, handle: int, data: bytes | bytearray | memoryview) -> None:
        """Copy host memory to the start of an allocation."""
        view = memoryview(data)
        for offset in range(0, len(view), CHUNK):
            header = {"op": "write", "handle": handle, "offset": offset}
            self.call(header, view[offset : offset + CHUNK])

    def read(self, handle: int, offset: int, size: int) -> bytearray:
        """Copy device memory out."""
        data = bytearray()
        for at in range(offset, offset + size, CHUNK):
            length = min(CHUNK, offset + size - at)
            header = {"op": "read", "handle": handle, "offset": at, "bytes": length}
            data += self.call(header)[1]
        return data

    def launch(self, handle: int, generation: int) -> None:
        """Run the kernel that writes `generation`, the one after the current."""
        self.call({"op": "launch", "handle": handle, "generation": generation})

    def digest(self, handle: int) -> str:
        """Return the digest of an allocation, computed by the device."""
        return str(self.call({"op": "digest", "handle": handle})[0]["digest"])

    def free(self, handle: int) -> None:
        """Free an allocation."""
        self.call({"op": "free", "handle": handle})

    def close(self) -> None:
        """Close the connection; the device frees all remaining memory."""
        self._connection.close()
