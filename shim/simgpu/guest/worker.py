"""A process of the workload, which keeps changing and checking its memory.

It holds CPU memory, a file, and with a GPU device memory. Each step writes the next generation of
all of them, then reads the oldest slot back and compares it with the expected content.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from shim.simgpu.guest import names, pattern
from shim.simgpu.guest.client import DeviceError, DeviceLost
from shim.simgpu.guest.driver import Allocation, Driver

_REQUEST_MAX = 4096
_LOSSES_MAX = 50
_VERIFY_WAIT_S = 2.0
_MOVE_WAIT_S = 20.0
_MOVE_POLL_S = 0.01


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The settings of a workload; sizes are multiples of 64 KiB.

    `real` uses a real GPU through the driver API, or with `pytorch` through PyTorch. Only a real
    GPU can have `weights_bytes`: constant device memory, in addition to `device_bytes`.
    """

    key: str = "k"
    processes: int = 1
    gpu: bool = True
    real: bool = False
    nvml_only: int = 0
    pytorch: bool = False
    device_bytes: int = 1 << 20
    weights_bytes: int = 0
    memory_bytes: int = 1 << 18
    file_bytes: int = 1 << 17
    resident_mib: int = 0
    period_s: float = 0.02
    folder: str = "/tmp"  # noqa: S108  # the guest's private tmpfs


class AnyDriver(Protocol):
    """The interface of the simulated and of the real driver."""

    misuse: list[str]

    @property
    def state(self) -> str:
        """The CUDA state of the process; empty if unknown."""

    def alloc(self, key: str, data: bytearray) -> Allocation:
        """Allocate device memory and fill it."""

    def launch(self, allocation: Allocation) -> int:
        """Make the next generation."""

    def read(self, allocation: Allocation, offset: int, size: int) -> bytearray:
        """Copy device memory out."""


class RealDriver(AnyDriver, Protocol):
    """The interface of a real GPU, or of a library that simulates it."""

    def load(self, weights: pattern.Weights) -> Allocation:
        """Allocate device memory and let the device fill it."""

    def wrong(self, allocation: Allocation, weights: pattern.Weights) -> int:
        """Let the device count the words that differ from the expected ones."""


class FileStore:
    """A file with a pattern in it."""

    def __init__(self, path: str, key: str, size: int) -> None:
        self.key = key
        self.size = size
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600)
        for slot in range(pattern.slots(size)):
            self.write(slot, pattern.block(key, slot, 0))

    def write(self, slot: int, data: bytes) -> None:
        """Write one slot."""
        os.pwrite(self._fd, data, slot * pattern.SLOT)

    def read(self, slot: int) -> bytes:
        """Read one slot."""
        return os.pread(self._fd, pattern.SLOT, slot * pattern.SLOT)


class MemoryStore:
    """CPU memory with a pattern in it."""

    def __init__(self, key: str, size: int) -> None:
        self.key = key
        self.size = size
        self._memory = bytearray().join(pattern.expected(key, size, 0))

    def write(self, slot: int, data: bytes) -> None:
        """Write one slot."""
        self._memory[slot * pattern.SLOT : (slot + 1) * pattern.SLOT] = data

    def read(self, slot: int) -> bytes:
        """Read one slot."""
        return bytes(self._memory[slot * pattern.SLOT : (slot + 1) * pattern.SLOT])


class Gpu:
    """Device memory with a pattern in it, changed by the device itself."""

    def __init__(self, driver: AnyDriver, key: str, size: int) -> None:
        self.key = key
        self.size = size
        self.driver = driver
        first = bytearray().join(pattern.expected(key, size, 0))
        self._allocation: Allocation = driver.alloc(key, first)

    def launch(self) -> None:
        """Make the next generation."""
        self.driver.launch(self._allocation)

    def read(self, slot: int) -> bytes:
        """Read one slot."""
        return bytes(self.driver.read(self._allocation, slot * pattern.SLOT, pattern.SLOT))


class Weights:
    """Device memory that stays constant, like a model's weights."""

    def __init__(self, driver: RealDriver, key: str, size: int) -> None:
        self.key = key
        self.size = size
        self._driver = driver
        self._weights = pattern.Weights(key, size)
        self._allocation = driver.load(self._weights)

    def digest(self) -> str:
        """Let the device compare all of it, and read a sample back."""
        wrong = self._driver.wrong(self._allocation, self._weights)
        return self._weights.digest(wrong, map(self._read, self._weights.sample()))

    def expected_digest(self) -> str:
        """Return the expected value of `digest`."""
        return self._weights.expected_digest()

    def _read(self, slot: int) -> bytes:
        return bytes(self._driver.read(self._allocation, slot * pattern.SLOT, pattern.SLOT))


class Worker:
    """One process of the workload."""

    def __init__(self, settings: Settings, index: int) -> None:
        self._settings = settings
        self._key = f"{settings.key}.{index}"
        self._index = index
        self._losses: list[str] = []
        self._generation = 0
        self._stepping = threading.Lock()
        self._held = threading.Event()
        self._stop_at = 0
        self._go = threading.Event()
        self._go.set()
        self._weights: Weights | None = None
        self._driver = self._make_driver() if settings.gpu else None
        self._stores = self._make_stores()

    def _make_driver(self) -> AnyDriver:
        if self._settings.real:
            real = self._real_driver()
            if size := self._settings.weights_bytes:
                self._weights = Weights(real, f"{self._key}.{names.WEIGHTS}", size)
            return real
        driver = Driver(f"worker{self._index}", on_loss=self.lose)
        driver.listen()
        return driver

    def _real_driver(self) -> RealDriver:
        if self._settings.pytorch:
            from shim.simgpu.guest.pytorch import Torch  # noqa: PLC0415  # only if it is used

            return Torch(on_loss=self.lose)
        from shim.simgpu.guest.libcuda import Cuda  # noqa: PLC0415  # as above

        return Cuda(on_loss=self.lose)

    def _make_stores(self) -> dict[str, MemoryStore | FileStore | Gpu]:
        s, key = self._settings, self._key
        path = f"{s.folder}/simgpu-{os.getpid()}.dat"
        stores: dict[str, MemoryStore | FileStore | Gpu] = {
            "cpu": MemoryStore(f"{key}.cpu", s.memory_bytes),
            "file": FileStore(path, f"{key}.file", s.file_bytes),
        }
        if self._driver is not None:
            stores["gpu"] = Gpu(self._driver, f"{key}.gpu", s.device_bytes)
        return stores

    def lose(self, what: str) -> None:
        """Record and print a loss; the process stops working, but still serves queries."""
        if len(self._losses) < _LOSSES_MAX:
            self._losses.append(what)
            os.write(2, f"simgpu: LOSS in process {os.getpid()}: {what}\n".encode())

    def run(self) -> None:
        """Work until killed."""
        threading.Thread(target=self._serve, daemon=True).start()
        while not self._losses:
            self._go.wait()
            with self._stepping, contextlib.suppress(DeviceLost, DeviceError):
                self._step()
                if self._generation == self._stop_at:
                    self._go.clear()
                    self._held.set()
            time.sleep(self._settings.period_s)
        threading.Event().wait()

    def _step(self) -> None:
        generation = self._generation + 1
        for store in self._stores.values():
            if isinstance(store, Gpu):
                store.launch()
                continue
            slot = pattern.slot_of(store.size, generation)
            store.write(slot, pattern.block(store.key, slot, generation))
        self._generation = generation
        for name, store in self._stores.items():
            self._check(name, store, generation % pattern.slots(store.size))

    def _check(self, name: str, store: MemoryStore | FileStore | Gpu, slot: int) -> None:
        wanted = pattern.expected_slot(store.key, store.size, slot, self._generation)
        if store.read(slot) != wanted:
            self.lose(f"{name} slot {slot} is not what generation {self._generation} made")

    # Queries.

    def status(self) -> dict[str, Any]:
        """Return the state of this process."""
        driver = self._driver
        return {
            "pid": os.getpid(),
            "index": self._index,
            "state": driver.state if driver else "",
            "generation": self._generation,
            "held": self._held.is_set(),
            "stop_at": self._stop_at,
            "losses": list(self._losses),
            "misuse": list(driver.misuse) if driver else [],
            "stores": {n: {"key": s.key, "bytes": s.size} for n, s in self._all().items()},
        }

    def _all(self) -> dict[str, Any]:
        return self._stores | ({names.WEIGHTS: self._weights} if self._weights else {})

    def verify_moving(self) -> dict[str, Any]:
        """Wait for the next step, then verify."""
        before, until = self._generation, time.monotonic() + _MOVE_WAIT_S
        while self._generation == before:
            if time.monotonic() > until or self._losses:
                return {**self.status(), "digests": {}, "stuck": True}
            time.sleep(_MOVE_POLL_S)
        return self.verify()

    def verify(self) -> dict[str, Any]:
        """Read everything back between two steps, compare it, and return its digests."""
        if not self._stepping.acquire(timeout=_VERIFY_WAIT_S):
            return {**self.status(), "digests": {}, "stuck": True}
        try:
            digests = {}
            for name, store in self._stores.items():
                found = pattern.digest(
                    store.read(slot) for slot in range(pattern.slots(store.size))
                )
                digests[name] = found
                if found != pattern.expected_digest(store.key, store.size, self._generation):
                    self.lose(f"{name} is not what generation {self._generation} made")
            if self._weights is not None:
                digests[names.WEIGHTS] = self._verify_weights(self._weights)
            return {**self.status(), "digests": digests}
        except (DeviceLost, DeviceError):
            return {**self.status(), "digests": {}}
        finally:
            self._stepping.release()

    def _verify_weights(self, weights: Weights) -> str:
        found = weights.digest()
        if found != weights.expected_digest():
            self.lose("the weights are not what was loaded")
        return found

    def hold(self) -> dict[str, Any]:
        """Stop after the current step; all memory stays allocated."""
        self._go.clear()
        return self._between_steps(self._held.set)

    def go(self) -> dict[str, Any]:
        """Continue."""
        self._held.clear()
        self._go.set()
        return self.status()

    def stop_after(self, steps: int) -> dict[str, Any]:
        """Stop that many steps from now; a restored copy stops at the same generation."""

        def aim() -> None:
            self._stop_at = self._generation + steps

        return self._between_steps(aim)

    def _between_steps(self, act: Callable[[], None]) -> dict[str, Any]:
        if self._stepping.acquire(timeout=_VERIFY_WAIT_S):
            act()
            self._stepping.release()
        return self.status()

    def _answer(self, question: str) -> dict[str, Any]:
        word, _, argument = question.partition(" ")
        if word == "stop-after":
            return self.stop_after(int(argument))
        if question == "verify moving":
            return self.verify_moving()
        answers = {"verify": self.verify, "hold": self.hold, "go": self.go}
        return answers.get(word, self.status)()

    def _serve(self) -> None:
        listener = listen(names.worker_socket(os.getpid()))
        while True:
            connection, _ = listener.accept()
            with connection, contextlib.suppress(OSError):
                question = connection.recv(_REQUEST_MAX).decode("ascii", "replace").strip()
                connection.sendall(json.dumps(self._answer(question)).encode())


def listen(path: str) -> socket.socket:
    """Listen on a unix socket in the guest."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)  # noqa: PTH108  # pathlib is slow to import
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path)
    listener.listen(16)
    return listener
