"""Processes with CUDA state outside any sandbox, for cryo-cuda and its libcuda.so.1."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from shim.cuda import native
from shim.simgpu import tools
from shim.simgpu.device import Device, Server
from shim.simgpu.fault import Fault

_TO = {
    ("lock", "running"): "locked",
    ("checkpoint", "locked"): "checkpointed",
    ("restore", "checkpointed"): "locked",
    ("unlock", "locked"): "running",
}
_LIMIT_S = 20.0


@dataclass
class Said:
    status: int
    out: str
    err: str


@dataclass
class FakeDriver:
    """One process's driver thread: its state, and what it was asked."""

    state: str = "running"
    asked: list[str] = field(default_factory=list)
    answer: str = ""

    def reply(self, request: str) -> str:
        self.asked.append(request)
        action = request.split(maxsplit=1)[0]
        if self.answer:
            return self.answer
        if "oom=" in request:
            return "error out of memory"
        if "busy=" in request:
            return "error device not ready"
        if action == "state":
            return f"ok {self.state}"
        if action == "tid":
            return "ok 4711"
        if (action, self.state) not in _TO:
            return "error the operation cannot be performed in the present state"
        self.state = _TO[action, self.state]
        return "ok "


class Ground:
    """A folder with the sockets of some processes and of the device that arms faults."""

    def __init__(self, folder: Path, count: int) -> None:
        self.folder = folder
        self.device = Device(1 << 20)
        self._server = Server(self.device, folder / "device.sock")
        threading.Thread(target=self._server.serve, daemon=True).start()
        self._children = [subprocess.Popen(["/bin/sleep", "1000"]) for _ in range(count)]
        self.drivers = {child.pid: FakeDriver() for child in self._children}
        self._listeners = [self._listen(pid) for pid in self.drivers]
        self.environment = {
            "LD_LIBRARY_PATH": str(tools.libcuda().parent),
            "CRYO_SIMGPU_RUN": str(folder),
            "CRYO_SIMGPU_DEVICE": str(folder / "device.sock"),
            "CRYO_SIMGPU_NODE": "/dev/null",
        }

    @property
    def pids(self) -> list[int]:
        return list(self.drivers)

    @property
    def states(self) -> list[str]:
        return [driver.state for driver in self.drivers.values()]

    def faults(self, *faults: Fault) -> None:
        self.device.script.arm(list(faults))

    def run(self, *arguments: str, limits: Sequence[str] = ()) -> Said:
        """Run cryo-cuda here, to its end, with `limits` of prlimit(1)."""
        before = ["prlimit", *limits] if limits else []
        done = subprocess.run(
            [*before, native.path(), *arguments],
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=_LIMIT_S,
            check=False,
        )
        return Said(done.returncode, done.stdout, done.stderr)

    def _listen(self, pid: int) -> socket.socket:
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(str(self.folder / f"cuda.{pid}"))
        listener.listen(16)
        threading.Thread(target=self._accept, args=(listener, pid), daemon=True).start()
        return listener

    def _accept(self, listener: socket.socket, pid: int) -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with connection, contextlib.suppress(OSError):
                request = connection.recv(4096).decode().strip()
                connection.sendall(f"{self.drivers[pid].reply(request)}\n".encode())

    def close(self) -> None:
        for listener in self._listeners:
            with contextlib.suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)
            listener.close()
        self._server.close()
        for child in self._children:
            child.kill()
            child.wait()


@contextlib.contextmanager
def ground(folder: Path, count: int = 1) -> Iterator[Ground]:
    """Give processes with CUDA state, and end them."""
    made = Ground(folder, count)
    try:
        yield made
    finally:
        made.close()


def missing() -> str:
    """Return why there is nothing to test, empty when there is."""
    if not native.path() or not os.access(tools.libcuda(), os.R_OK):
        return "cryo-cuda is not built: there is no C compiler"
    return ""
