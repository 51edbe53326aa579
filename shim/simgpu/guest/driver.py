"""The simulated CUDA driver inside a process: API calls, and the thread that checkpoints them.

The states, and the effect of each action on calls, device memory and device files, are those of the
real driver. So is the name of the thread: `cuda` and eleven hexadecimal digits.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from shim.simgpu.guest import names
from shim.simgpu.guest.client import DeviceClient, DeviceError, DeviceLost

_PR_SET_NAME = 15
_POLL_S = 0.05
_REQUEST_MAX = 4096
# What is answered at once, as by the real driver; a move can take long, or hang.
_QUESTIONS = (["state"], ["tid"])
# The tools send their request with the connection.
_REQUEST_S = 5.0

# CUDA's own error texts.
ILLEGAL_STATE = "the operation cannot be performed in the present state"
OPERATING_SYSTEM = "OS call failed or operation not supported on this OS"
NOT_READY = "device not ready"
INVALID = "invalid argument"
OUT_OF_MEMORY = "out of memory"


class Refusal(Exception):
    """The driver rejected an action; the argument is CUDA's error text."""


@dataclass
class Allocation:
    """The driver's record of an allocation; `saved` is its content while checkpointed."""

    key: str
    size: int
    generation: int
    handle: int = 0
    saved: bytearray | None = None


def name_thread(name: str) -> None:
    """Set the name of the calling thread, which /proc/PID/task/TID/comm shows."""
    ctypes.CDLL(None).prctl(_PR_SET_NAME, ctypes.c_char_p(name.encode()), 0, 0, 0)


class Driver:
    """One process's CUDA context on the simulated device."""

    def __init__(self, name: str, *, on_loss: Callable[[str], None]) -> None:
        self._state = "running"
        self.misuse: list[str] = []
        self._name = name
        self._on_loss = on_loss
        self._gate = threading.Condition()
        self._moving = threading.Lock()
        self._in_flight = 0
        self._poisoned = False
        self._allocations: list[Allocation] = []
        self._tid = 0
        self._fd = -1
        self._device: DeviceClient
        self._open()

    @property
    def state(self) -> str:
        """Return running, locked, checkpointed or failed."""
        return self._state

    # The API: like CUDA calls, these block while the process is locked.

    def alloc(self, key: str, data: bytearray) -> Allocation:
        """Allocate device memory and fill it."""
        with self._call() as device:
            allocation = Allocation(key, len(data), 0)
            allocation.handle = device.alloc(key, len(data), 0)
            device.write(allocation.handle, data)
            self._allocations.append(allocation)
            return allocation

    def launch(self, allocation: Allocation) -> int:
        """Run the kernel once; return the new generation."""
        with self._call() as device:
            device.launch(allocation.handle, allocation.generation + 1)
            allocation.generation += 1
            return allocation.generation

    def read(self, allocation: Allocation, offset: int, size: int) -> bytearray:
        """Copy device memory out."""
        with self._call() as device:
            return device.read(allocation.handle, offset, size)

    def digest(self, allocation: Allocation) -> str:
        """Return the digest of an allocation, computed by the device."""
        with self._call() as device:
            return device.digest(allocation.handle)

    @contextlib.contextmanager
    def _call(self) -> Iterator[DeviceClient]:
        with self._gate:
            self._gate.wait_for(lambda: self.state == "running")
            self._in_flight += 1
        try:
            yield self._device
        except (DeviceLost, DeviceError) as error:
            self.lost(f"{type(error).__name__} in state {self.state}: {error}")
            raise
        finally:
            with self._gate:
                self._in_flight -= 1
                self._gate.notify_all()

    def lost(self, what: str) -> None:
        """Report a loss."""
        self._on_loss(what)

    # The actions of cuda-checkpoint.

    def act(self, action: str, options: dict[str, str], caller: socket.socket) -> str:
        """Perform an action; return what the tool prints.

        Raises:
            Refusal: the action is not possible.
        """
        if action == "state":
            return self.state
        if action == "tid":
            return str(self._tid)
        moves = {
            "lock": lambda: self._lock(options, caller),
            "checkpoint": self._checkpoint,
            "restore": lambda: self._restore(options),
            "unlock": self._unlock,
        }
        if action not in moves:
            raise Refusal(INVALID)
        with self._moving:
            moves[action]()
        return ""

    def _require(self, action: str, state: str) -> None:
        if self.state == state:
            return
        self.misuse.append(f"{action} while {self.state}")
        raise Refusal(ILLEGAL_STATE)

    def _lock(self, options: dict[str, str], caller: socket.socket) -> None:
        self._require("lock", "running")
        timeout_s = int(options.get("timeout", "0")) / 1000
        deadline = time.monotonic() + timeout_s if timeout_s else None
        busy_until = _busy(options.get("busy"))
        with self._gate:
            self._state = "locked"
            while self._in_flight or time.monotonic() < busy_until:
                self._gate.wait(_POLL_S)
                late = deadline is not None and time.monotonic() >= deadline
                if late or _hung_up(caller):
                    self._go("running")
                    raise Refusal(NOT_READY)

    def _checkpoint(self) -> None:
        self._require("checkpoint", "locked")
        try:
            for allocation in self._allocations:
                allocation.saved = self._device.read(allocation.handle, 0, allocation.size)
            for allocation in self._allocations:
                self._device.free(allocation.handle)
        except (DeviceLost, DeviceError) as error:
            self.lost(f"device memory could not be copied out: {error}")
            self._go("failed")
            raise Refusal(OPERATING_SYSTEM) from error
        finally:
            self._close()
        self._go("checkpointed")

    def _restore(self, options: dict[str, str]) -> None:
        self._require("restore", "checkpointed")
        if self._poisoned:
            raise Refusal(OPERATING_SYSTEM)
        if not _map_is_whole(options.get("map", "")):
            raise Refusal(INVALID)
        try:
            self._copy_in(out_of_memory="oom" in options)
        except (OSError, DeviceLost, DeviceError) as error:
            # As with the real driver: after a failed restore, every later one fails too.
            self._poisoned = True
            self._close()
            known = str(error) if isinstance(error, DeviceError) else OPERATING_SYSTEM
            raise Refusal(known) from error
        self._go("locked")

    def _copy_in(self, *, out_of_memory: bool) -> None:
        if out_of_memory:
            raise DeviceError(OUT_OF_MEMORY)
        self._open()
        for allocation in self._allocations:
            handle = self._device.alloc(allocation.key, allocation.size, allocation.generation)
            allocation.handle = handle
        for allocation in self._allocations:
            self._device.write(allocation.handle, allocation.saved or b"")
        for allocation in self._allocations:
            allocation.saved = None

    def _unlock(self) -> None:
        self._require("unlock", "locked")
        self._go("running")

    def _go(self, state: str) -> None:
        with self._gate:
            self._state = state
            self._gate.notify_all()

    def _open(self) -> None:
        self._fd = os.open(names.CONTROL_NODE, os.O_RDWR | os.O_CLOEXEC)
        self._device = DeviceClient(names.DEVICE_SOCKET, name=self._name)

    def _close(self) -> None:
        self._device.close()
        if self._fd >= 0:
            os.close(self._fd)
        self._fd = -1

    # The driver's thread.

    def listen(self) -> None:
        """Start the thread that serves cuda-checkpoint."""
        path = names.driver_socket(os.getpid())
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)  # noqa: PTH108  # pathlib is slow to import
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(path)
        listener.listen(16)
        threading.Thread(target=self._accept, args=(listener,), daemon=True).start()

    def _accept(self, listener: socket.socket) -> None:
        name_thread(f"cuda{os.urandom(6).hex()[:11]}")
        self._tid = threading.get_native_id()
        while True:
            connection, _ = listener.accept()
            words = _request(connection)
            if words[:1] in _QUESTIONS:
                self._one(connection, words)
            else:
                work = threading.Thread(target=self._one, args=(connection, words), daemon=True)
                work.start()

    def _one(self, connection: socket.socket, words: list[str]) -> None:
        with connection, contextlib.suppress(OSError):
            options = dict(word.partition("=")[::2] for word in words[1:])
            try:
                answer = "ok " + self.act(words[0] if words else "", options, connection)
            except Refusal as error:
                answer = f"error {error}"
            connection.sendall(answer.encode() + b"\n")


def _request(connection: socket.socket) -> list[str]:
    """Read the words of a request; none if it does not arrive."""
    connection.settimeout(_REQUEST_S)
    try:
        words = connection.recv(_REQUEST_MAX).decode("ascii", "replace").split()
    except OSError:
        return []
    connection.settimeout(None)
    return words


def _busy(text: str | None) -> float:
    """Return when submitted work ends; `text` is None, or seconds with 0 for no end."""
    if text is None:
        return 0.0
    return time.monotonic() + float(text) if float(text) else float("inf")


def _hung_up(connection: socket.socket) -> bool:
    """Whether the tool has disconnected, because it was killed while it waited."""
    poll = select.poll()
    poll.register(connection, select.POLLRDHUP | select.POLLHUP)
    return bool(poll.poll(0))


def _map_is_whole(text: str) -> bool:
    """Whether a device map is OLD=NEW pairs, separated by commas; empty means none was given."""
    return not text or all(all(pair.partition("=")) for pair in text.split(","))
