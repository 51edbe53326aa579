"""Network namespaces of a place, for clients and for each container; free ports of the host."""

from __future__ import annotations

import contextlib
import shutil
import socket
from collections.abc import Iterator
from dataclasses import dataclass

from tests.containerd.daemon import numbers
from tests.containerd.place import Place

_PREFIX = "10.88.0"


@dataclass(frozen=True)
class Interface:
    """A network namespace with an address."""

    namespace: str
    address: str

    @property
    def flags(self) -> tuple[str, ...]:
        """Return the flags of ctr for a container in this namespace."""
        return ("--with-ns", f"network:/run/netns/{self.namespace}")


class Network:
    """A bridge in the namespace of the clients, and an interface per container on it."""

    def __init__(self, place: Place) -> None:
        self._place = place
        self.clients = f"clients-{next(numbers)}"
        self._hosts = iter(range(2, 255))

    def start(self) -> None:
        """Create the clients' namespace."""
        self._ip("netns", "add", self.clients)
        self._inside("link", "set", "lo", "up")
        self._inside("link", "add", "bridge", "type", "bridge")
        self._inside("addr", "add", f"{_PREFIX}.1/24", "dev", "bridge")
        self._inside("link", "set", "bridge", "up")

    def end(self) -> None:
        """Remove the clients' namespace."""
        self._ip("netns", "del", self.clients)

    @contextlib.contextmanager
    def interface(self) -> Iterator[Interface]:
        """Yield a namespace with an address that no other has had."""
        host = next(self._hosts)
        made = Interface(f"server-{next(numbers)}", f"{_PREFIX}.{host}")
        port = f"port{host}"
        self._ip("netns", "add", made.namespace)
        try:
            peer = ("peer", "name", "eth0", "netns", made.namespace)
            self._inside("link", "add", port, "type", "veth", *peer)
            self._inside("link", "set", port, "master", "bridge", "up")
            there = ("-n", made.namespace)
            self._ip(*there, "addr", "add", f"{made.address}/24", "dev", "eth0")
            self._ip(*there, "link", "set", "eth0", "up")
            self._ip(*there, "link", "set", "lo", "up")
            yield made
        finally:
            self._ip("netns", "del", made.namespace)

    def argv(self, *argv: str) -> list[str]:
        """Return the command line that runs a program in the clients' namespace."""
        return [_program(), "netns", "exec", self.clients, *argv]

    def _inside(self, *arguments: str) -> None:
        self._ip("-n", self.clients, *arguments)

    def _ip(self, *arguments: str) -> None:
        self._place.do(_program(), *arguments)


def _program() -> str:
    """Return the path of `ip`."""
    return shutil.which("ip") or "/sbin/ip"


def free_port() -> int:
    """Return a port of the host on which nothing listens."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
        return port
