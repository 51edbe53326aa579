"""A server in a container of a sandbox that has a loopback, and requests to it."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

from shim.errors import Unavailable
from shim.host import http
from shim.host.http import Response
from shim.runsc import control, statefile
from shim.runsc.port_forward import open_stream
from shim.simgpu.simulation import Simulation, wait_until
from tests.builds import RunscBuild, excuse
from tests.real.helpers_rig import WAIT_S, Rig


@contextlib.contextmanager
def network_namespace() -> Iterator[str]:
    """Give the path of a network namespace with a loopback."""
    if shutil.which("ip") is None:
        excuse("there is no ip program to make network namespaces with")
    name = f"cryo-{secrets.token_hex(3)}"
    subprocess.run(["ip", "netns", "add", name], check=True)
    try:
        subprocess.run(["ip", "-n", name, "link", "set", "lo", "up"], check=True)
        yield f"/run/netns/{name}"
    finally:
        subprocess.run(["ip", "netns", "del", name], check=True)


def control_of_task(rig: Rig, name: str) -> Path:
    """Return the control socket of a task's sandbox."""
    root = rig.sim.folder / "state" / "runsc" / "default"
    return control.control_socket(root, f"{name}+", statefile.files_of(root, f"{name}+"))


class Served:
    """A sidecar whose sandboxes have a loopback."""

    def __init__(self, rig: Rig, netns: str) -> None:
        self.rig = rig
        self.netns = netns

    def bundle(self, name: str, argv: Sequence[str], annotations: dict[str, str]) -> Path:
        """Write the bundle of a container in the network namespace."""
        bundle = self.rig.bundle(name, argv)
        with self.rig.edited(bundle) as spec:
            others = [one for one in spec["linux"]["namespaces"] if one["type"] != "network"]
            spec["linux"]["namespaces"] = [*others, {"type": "network", "path": self.netns}]
            spec["annotations"] = annotations
        return bundle

    def start(self, name: str, argv: Sequence[str], annotations: dict[str, str], port: int) -> None:
        """Start a server, and wait until it answers."""
        self.rig.client.create(name, str(self.bundle(name, argv, annotations)))
        self.rig.client.start(name)
        self.until_answers(name, port)

    def until_answers(self, name: str, port: int) -> None:
        """Wait until the server of a container answers."""
        wait_until(lambda: self._answers(name, port), f"the server in {name}", WAIT_S)

    def _answers(self, name: str, port: int) -> bool:
        with contextlib.suppress(Unavailable):
            return self.get(name, port).ok
        return False

    def get(self, name: str, port: int) -> Response:
        """Make a request to the server of a container."""
        socket = control_of_task(self.rig, name)

        async def get() -> Response:
            async with open_stream(socket, f"{name}+", port, timeout_s=WAIT_S) as stream:
                return await http.request(*stream, "GET", "/", host="localhost", timeout_s=WAIT_S)

        return asyncio.run(get())


@contextlib.contextmanager
def served(build: RunscBuild, network: str) -> Iterator[Served]:
    """Give a sidecar with this network of runsc."""
    with network_namespace() as netns, Simulation(build.path) as sim:
        sim.flags["network"] = network
        sim.start_sidecar()
        rig = Rig(sim, build)
        try:
            yield Served(rig, netns)
        finally:
            rig.clear()
