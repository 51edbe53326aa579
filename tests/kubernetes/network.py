"""A network namespace of a test: its daemons run in it, and the test connects into it.

It has a bridge, to which CNI's plugin connects the pods, and whose address is that of the node.
"""

from __future__ import annotations

import ctypes
import os
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from shim.simgpu.waiting import wait_until
from tests.containerd.place import Place

_CLONE_NEWNET = 0x40000000
_START_S = 30.0
BRIDGE = "pods0"
SUBNET, ADDRESS = "10.88.77.0/24", "10.88.77.1"
_OWNER_S = "2147483647"


class Network:
    """A network namespace, and the place whose programs run in it."""

    def __init__(self, place: Place, path: Path) -> None:
        self.path = path
        self.place = Place(place.folder, place.remote.through("nsenter", f"--net={path}"))

    def connect(self, port: int, timeout_s: float) -> socket.socket:
        """Connect to a port of its loopback."""

        def join_and_connect() -> socket.socket:
            _join(self.path)
            return socket.create_connection(("127.0.0.1", port), timeout_s)

        # A thread of its own, which keeps the namespace for as long as it lives.
        with ThreadPoolExecutor(1) as thread:
            return thread.submit(join_and_connect).result()

    def listens(self, port: int) -> bool:
        """Return whether a server accepts connections on a port of its loopback."""
        try:
            self.connect(port, _START_S).close()
        except ConnectionRefusedError:
            return False
        return True


@contextmanager
def own_network(place: Place, busybox: Path) -> Iterator[Network]:
    """Yield a new network namespace; it exists as long as the process that owns it."""
    argv = ["unshare", "--net", "sleep", _OWNER_S]
    pid = place.remote.spawn(argv, output=place.folder / "network.log", env={})
    path = Path(f"/proc/{pid}/ns/net")
    try:
        wait_until(lambda: not path.samefile("/proc/self/ns/net"), "a network namespace", _START_S)
        network = Network(place, path)
        ip = [str(busybox), "ip"]
        network.place.do(*ip, "link", "add", BRIDGE, "type", "bridge")
        network.place.do(*ip, "address", "add", f"{ADDRESS}/24", "dev", BRIDGE)
        for device in ("lo", BRIDGE):
            network.place.do(*ip, "link", "set", device, "up")
        yield network
    finally:
        place.remote.kill(pid)
        place.remote.wait(pid, _START_S)


def _join(path: Path) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    with path.open("rb") as file:
        if libc.setns(file.fileno(), _CLONE_NEWNET):
            number = ctypes.get_errno()
            raise OSError(number, f"setns {path}: {os.strerror(number)}")
