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
    """The connection is gone, and with it whatever lay in device memory."""


class DeviceError(Exception):
    """The device says no; the argument is its reason."""


class DeviceClient:
    """One client of the device; its memory lives exactly as long as its connection."""

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
        """Ask one thing.

        Raises:
            DeviceLost: the connection broke before the answer.
            DeviceError: the device refuses.
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
        """Take `size` bytes of device memory; return their handle."""
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
        """Run the kernel that makes `generation` of the one before."""
        self.call({"op": "launch", "handle": handle, "generation": generation})

    def digest(self, handle: int) -> str:
        """Return the digest of an allocation, computed by the device."""
        return str(self.call({"op": "digest", "handle": handle})[0]["digest"])

    def free(self, handle: int) -> None:
        """Give an allocation back."""
        self.call({"op": "free", "handle": handle})

    def close(self) -> None:
        """Hang up; the device frees whatever is left."""
        self._connection.close()
