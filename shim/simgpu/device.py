"""The simulated device: a host process that owns "device memory" and serves it on a unix socket.

As on a GPU, memory is freed when the connection of the client that allocated it closes. The device
also holds the faults to inject into the stand-in for cuda-checkpoint, and a log of its calls.

Started by `shim.simgpu.simulation`, or by hand:

    python -m shim.simgpu.device --socket /tmp/x/device.sock --capacity-bytes 4294967296
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import os
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from shim.host.unix_socket import peer_credentials
from shim.simgpu import sandboxes
from shim.simgpu.fault import Fault
from shim.simgpu.guest import frames, pattern
from shim.simgpu.guest.client import DeviceError
from shim.simgpu.sandboxes import Origin

_CALLS_MAX = 10_000

Header = dict[str, Any]
Answer = tuple[Header, bytes]


@dataclass
class Allocation:
    """A range of device memory; `lock` makes each operation on it atomic."""

    owner: int
    key: str
    memory: bytearray
    generation: int
    lock: threading.Lock = field(default_factory=threading.Lock)

    def launch(self, generation: int) -> None:
        """Rewrite one slot.

        Raises:
            DeviceError: it is not the next generation: a step was lost or repeated.
        """
        with self.lock:
            if generation != self.generation + 1:
                message = f"launch of generation {generation} after {self.generation}"
                raise DeviceError(message)
            slot = pattern.slot_of(len(self.memory), generation)
            at = slot * pattern.SLOT
            self.memory[at : at + pattern.SLOT] = pattern.block(self.key, slot, generation)
            self.generation = generation


@dataclass
class Client:
    """A connection; `pid` is the client's in the container, `origin` its sandbox on the host."""

    origin: Origin
    pid: int = 0
    name: str = ""


class Memory:
    """The device memory: allocations, their owners, and the capacity."""

    def __init__(self, capacity_bytes: int) -> None:
        self.capacity_bytes = capacity_bytes
        self.reserved_bytes = 0
        self._lock = threading.Lock()
        self._handles = itertools.count(1)
        self._live: dict[int, Allocation] = {}

    def used_bytes(self) -> int:
        """Return how much is allocated or reserved."""
        return self.reserved_bytes + sum(len(a.memory) for a in list(self._live.values()))

    def alloc(self, owner: int, key: str, size: int, generation: int) -> int:
        """Allocate memory and return its handle.

        Raises:
            DeviceError: out of memory.
        """
        pattern.slots(size)
        with self._lock:
            if self.used_bytes() + size > self.capacity_bytes:
                raise DeviceError("out of memory")  # noqa: EM101  # CUDA's own words
            handle = next(self._handles)
            self._live[handle] = Allocation(owner, key, bytearray(size), generation)
            return handle

    def find(self, owner: int, handle: object) -> Allocation:
        """Return a client's own allocation.

        Raises:
            DeviceError: the client has no such allocation.
        """
        found = self._live.get(handle) if isinstance(handle, int) else None
        if found is None or found.owner != owner:
            raise DeviceError("invalid argument")  # noqa: EM101  # CUDA's own words
        return found

    def free(self, handle: int) -> None:
        """Free one allocation."""
        with self._lock:
            self._live.pop(handle, None)

    def free_all(self, owner: int) -> None:
        """Free all allocations of a client that has disconnected."""
        with self._lock:
            for handle in [h for h, a in self._live.items() if a.owner == owner]:
                del self._live[handle]

    def by_owner(self) -> dict[int, int]:
        """Return the bytes that each client holds."""
        held: dict[int, int] = {}
        for allocation in list(self._live.values()):
            held[allocation.owner] = held.get(allocation.owner, 0) + len(allocation.memory)
        return held

    def described(self) -> list[Header]:
        """Return every allocation with its key, generation and digest."""
        found = []
        for allocation in list(self._live.values()):
            with allocation.lock:
                digest = pattern.digest([allocation.memory])
                generation = allocation.generation
            found.append(
                {
                    "owner": allocation.owner,
                    "key": allocation.key,
                    "bytes": len(allocation.memory),
                    "generation": generation,
                    "digest": digest,
                }
            )
        return found


class Script:
    """The armed faults, and the calls of the tool so far."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._armed: list[tuple[Fault, itertools.count[int]]] = []
        self.calls: list[Header] = []

    def arm(self, faults: list[Fault]) -> None:
        """Replace all faults and reset their counts."""
        with self._lock:
            self._armed = [(fault, itertools.count(1)) for fault in faults]

    def ask(self, action: str, pid: int, task: str, via: str) -> str:
        """Log a call of the tool and return the fault to inject, as a line; empty for none."""
        call = {"action": action, "pid": pid, "task": task, "via": via, "at_s": time.monotonic()}
        with self._lock:
            if len(self.calls) < _CALLS_MAX:
                self.calls.append(call)
            chosen = ""
            for fault, count in self._armed:
                if fault.matches(action, pid, task) and fault.due(next(count)) and not chosen:
                    chosen = fault.line()
            return chosen


class Device:
    """The operations that clients may request, with a method for each."""

    def __init__(self, capacity_bytes: int) -> None:
        self.memory = Memory(capacity_bytes)
        self.script = Script()
        self.clients: dict[int, Client] = {}
        self._operations: dict[str, Callable[[int, Header, bytearray], Answer]] = {
            "hello": self._hello,
            "alloc": self._alloc,
            "free": self._free,
            "write": self._write,
            "read": self._read,
            "launch": self._launch,
            "digest": self._digest,
            "tool": self._tool,
            "stats": self._stats,
            "faults": self._faults,
            "calls": self._calls,
            "limits": self._limits,
        }

    def answer(self, client: int, header: Header, payload: bytearray) -> Answer:
        """Perform one operation; on failure the reply has the key `error`."""
        operation = self._operations.get(str(header.get("op")))
        try:
            if operation is None:
                return {"error": "not supported"}, b""
            return operation(client, header, payload)
        except DeviceError as error:
            return {"error": str(error)}, b""
        except (KeyError, TypeError, ValueError):
            return {"error": "invalid argument"}, b""

    def gone(self, client: int) -> None:
        """Free the memory of a client that has disconnected."""
        self.memory.free_all(client)
        self.clients.pop(client, None)

    def _hello(self, client: int, header: Header, _: bytearray) -> Answer:
        self.clients[client].pid = int(header["pid"])
        self.clients[client].name = str(header.get("name", ""))[:64]
        return {}, b""

    def _alloc(self, client: int, header: Header, _: bytearray) -> Answer:
        size, generation = int(header["bytes"]), int(header["generation"])
        return {"handle": self.memory.alloc(client, str(header["key"]), size, generation)}, b""

    def _free(self, client: int, header: Header, _: bytearray) -> Answer:
        self.memory.find(client, header["handle"])
        self.memory.free(header["handle"])
        return {}, b""

    def _write(self, client: int, header: Header, payload: bytearray) -> Answer:
        allocation = self.memory.find(client, header["handle"])
        offset = _range(allocation, header["offset"], len(payload))
        with allocation.lock:
            allocation.memory[offset : offset + len(payload)] = payload
        return {}, b""

    def _read(self, client: int, header: Header, _: bytearray) -> Answer:
        allocation, size = self.memory.find(client, header["handle"]), int(header["bytes"])
        offset = _range(allocation, header["offset"], size)
        with allocation.lock:
            return {}, bytes(allocation.memory[offset : offset + size])

    def _launch(self, client: int, header: Header, _: bytearray) -> Answer:
        self.memory.find(client, header["handle"]).launch(int(header["generation"]))
        return {}, b""

    def _digest(self, client: int, header: Header, _: bytearray) -> Answer:
        allocation = self.memory.find(client, header["handle"])
        with allocation.lock:
            return {"digest": pattern.digest([allocation.memory])}, b""

    def _tool(self, client: int, header: Header, _: bytearray) -> Answer:
        action, pid = str(header["action"])[:32], int(header["pid"])
        task, via = self.clients[client].origin.task, str(header.get("via", ""))[:32]
        return {}, self.script.ask(action, pid, task, via).encode()

    def _stats(self, _client: int, _header: Header, _: bytearray) -> Answer:
        held = self.memory.by_owner()
        clients = [
            {
                "pid": client.pid,
                "name": client.name,
                **_sandbox(client.origin),
                "bytes": held.get(number, 0),
                "id": number,
            }
            for number, client in list(self.clients.items())
        ]
        used = self.memory.used_bytes()
        answer = {"capacity_bytes": self.memory.capacity_bytes, "used_bytes": used}
        detail = {"allocations": self.memory.described()} if _header.get("detail") else {}
        return {**answer, "clients": clients, **detail}, b""

    def _faults(self, _client: int, header: Header, _: bytearray) -> Answer:
        self.script.arm([Fault(**fault) for fault in header["faults"]])
        return {}, b""

    def _calls(self, _client: int, header: Header, _: bytearray) -> Answer:
        calls = list(self.script.calls)
        if header.get("clear"):
            self.script.calls.clear()
        return {"calls": calls[-1000:]}, b""

    def _limits(self, _client: int, header: Header, _: bytearray) -> Answer:
        self.memory.capacity_bytes = int(header.get("capacity", self.memory.capacity_bytes))
        self.memory.reserved_bytes = int(header.get("reserved", self.memory.reserved_bytes))
        return {}, b""


def _sandbox(origin: Origin) -> Header:
    return {"sandbox": origin.pid, "task": origin.task}


def _range(allocation: Allocation, offset: object, size: int) -> int:
    """Check that a range lies inside an allocation, and return its offset.

    Raises:
        DeviceError: it does not.
    """
    if isinstance(offset, int) and offset >= 0 and 0 <= size <= len(allocation.memory) - offset:
        return offset
    raise DeviceError("invalid argument")  # noqa: EM101  # CUDA's own words


class Server:
    """Serves a device on a unix socket, a thread per connection."""

    def __init__(self, device: Device, path: Path) -> None:
        self._device = device
        self._numbers = itertools.count(1)
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        path.chmod(0o666)  # workloads may run as any user
        self._listener.listen(64)

    def serve(self) -> None:
        """Accept until the listener is closed."""
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._one, args=(connection,), daemon=True).start()

    def close(self) -> None:
        """Stop accepting."""
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _one(self, connection: socket.socket) -> None:
        number = next(self._numbers)
        peer = peer_credentials(connection).pid  # in a sandbox, that of its sentry or gofer
        self._device.clients[number] = Client(sandboxes.origin(peer))
        gone = (OSError, EOFError, ValueError, frames.Malformed)
        try:
            with connection, contextlib.suppress(*gone):
                while True:
                    header, payload = frames.receive(connection)
                    frames.send(connection, *self._device.answer(number, header, payload))
        finally:
            self._device.gone(number)


def main() -> None:
    """Serve until killed."""
    parser = argparse.ArgumentParser(prog="simgpu-device", description="The simulated GPU.")
    parser.add_argument("--socket", type=Path, required=True)
    parser.add_argument("--capacity-bytes", type=int, default=4 << 30)
    options = parser.parse_args()
    server = Server(Device(options.capacity_bytes), options.socket)
    os.write(1, b"ready\n")
    server.serve()


if __name__ == "__main__":
    main()
