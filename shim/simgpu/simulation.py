"""A machine with a simulated GPU: device, tools, private /dev, and optionally a sidecar.

Example, by hand:

    with Simulation(Path("/usr/bin/runsc")) as sim:
        bundle = sim.bundle("demo", Settings(processes=2))
        box = sim.sandbox()
        box.run("demo", bundle)
        pids = sim.until_ready(box, "demo").pids
        sim.faults(Fault(action="lock", kind=Kind.BUSY, pid=pids[1]))
        box.cuda("demo", "--action", "lock", "--pid", str(pids[1]), "--timeout", "500")
        assert sim.verify(box, "demo").intact
        print(sim.calls())

Example, with the sidecar:

    with Simulation(runsc) as sim:
        sim.start_sidecar()
        client = Client(sim.address)
        guest = TaskGuest(client, sim.folder)  # shim.selftest.guest
        client.create("demo", str(sim.bundle("demo", inject_tool=False)))
        client.start("demo")
        sim.until_ready(guest, "demo")
        sim.faults(Fault(action="checkpoint", kind=Kind.HANG, nth=2))
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shim.errors import Unavailable
from shim.simgpu import bundle, tools
from shim.simgpu.bundle import Settings
from shim.simgpu.fault import Fault, Kind
from shim.simgpu.guest import names
from shim.simgpu.guest.client import DeviceClient, DeviceLost
from shim.simgpu.machine import Machine, can_run
from shim.simgpu.questions import Guest
from shim.simgpu.waiting import PACKAGE_ROOT, START_S, environment, wait_until

__all__ = [
    "Call",
    "Fault",
    "Guest",
    "Kind",
    "Settings",
    "Simulation",
    "can_run",
    "environment",
    "wait_until",
]

_GIB = 1 << 30
_FLAGS = {"nvproxy": "true", "nvproxy-driver-version": "latest", "host-uds": "open"}


@dataclass(frozen=True)
class Call:
    """A call of cuda-checkpoint; `via` is `toggle` for the actions of a --toggle."""

    action: str
    pid: int
    task: str
    via: str
    at_s: float


class Simulation(Machine):
    """A machine whose GPU is simulated by a process; see `Machine` for the rest."""

    def __init__(
        self,
        runsc: Path,
        *,
        driver: int = 570,
        capacity_bytes: int = 4 * _GIB,
        tool: bool = True,
        helper: bool = True,
    ) -> None:
        super().__init__(runsc)
        self.flags |= _FLAGS
        self.driver = driver
        self.capacity_bytes = capacity_bytes
        self._with_tool = tool
        self.with_helper = helper

    def equip(self) -> None:
        """Install the tools and the driver's /proc tree."""
        (self.folder / "nvidia").mkdir()
        tools.write_libcuda(self.folder / "code")
        self.set_driver(self.driver)
        tools.write_nvidia_smi(self.folder / "tools", PACKAGE_ROOT, self.device_socket)

    def switch_on(self) -> None:
        """Start the device."""
        argv = [sys.executable, "-m", "shim.simgpu.device", "--socket", str(self.device_socket)]
        argv += ["--capacity-bytes", str(self.capacity_bytes)]
        self.remote.spawn(argv, output=self.folder / "device.log", env=environment())
        wait_until(self._device_answers, "the simulated device", START_S)

    def settings_of_cuda(self) -> dict[str, Any]:
        """Configure the sidecar for the simulated driver."""
        return {
            "tool": str(self.tool) if self.tool.exists() else "",
            "nvidia_proc": str(self.folder / "nvidia"),
            "helper": "auto" if self.with_helper else "never",
            "nvidia_smi": str(self.folder / "tools" / "nvidia-smi"),
            # Connections to the device: like device files, they are closed by a freeze.
            "ignored_sockets": [f"{self.device_socket.parent}/"],
        }

    def settings_of_host(self) -> dict[str, Any]:
        """Give no warning of small pages: a simulated GPU is as slow with huge ones."""
        return {"huge_pages": "ignore"}

    def hardware(self, content: dict[str, Any], settings: Settings) -> None:
        """Add the control node, which gVisor treats as NVIDIA's."""
        del settings
        content["linux"]["devices"].append(dict(bundle.CONTROL))
        content["process"]["env"].append(f"LD_LIBRARY_PATH={names.CODE_DIR}")

    def bundle(
        self,
        name: str,
        settings: Settings | None = None,
        *,
        tool: Path | None = None,
        readonly: bool = True,
        annotations: Mapping[str, str] | None = None,
        inject_tool: bool = True,
    ) -> Path:
        """Write the bundle of a workload.

        `inject_tool` mounts cuda-checkpoint as the sidecar would, for use without a sidecar.
        """
        chosen = settings or Settings()
        if inject_tool and (chosen.gpu or chosen.nvml_only):
            tool = tool or self.tool
        return super().bundle(name, chosen, tool=tool, readonly=readonly, annotations=annotations)

    # The host.

    @property
    def device_socket(self) -> Path:
        """The socket of the device, on the host."""
        return self.folder / "device" / "device.sock"

    @property
    def tool(self) -> Path:
        """The stand-in for cuda-checkpoint."""
        return self.folder / "tools" / "cuda-checkpoint"

    def set_driver(self, major: int) -> None:
        """Change the driver version in the tool and in the host's /proc tree."""
        self.driver = major
        tools.write_nvidia_proc(self.folder / "nvidia", major)
        if self._with_tool:
            tools.write_cuda_checkpoint(self.folder / "tools", major)

    def remove_tool(self) -> None:
        """Remove cuda-checkpoint from the host; later sidecars do not use cryo-cuda either."""
        self.with_helper = False
        self.tool.unlink(missing_ok=True)

    # The device.

    def faults(self, *faults: Fault) -> None:
        """Replace the armed faults; without arguments, disarm all."""
        self._ask_device(op="faults", faults=[vars(fault) for fault in faults])

    def calls(self, *, clear: bool = False) -> list[Call]:
        """Return the tool's calls so far, oldest first."""
        raw = self._ask_device(op="calls", clear=clear)["calls"]
        return [Call(**call) for call in raw]

    def until_called(self, action: str, count: int = 1, timeout_s: float = START_S) -> list[Call]:
        """Wait until the tool has been called `count` times for an action; return those calls.

        With a slow or hanging fault on that action, the caller can now cancel or kill.
        """

        def made() -> list[Call]:
            return [call for call in self.calls() if call.action == action]

        wait_until(lambda: len(made()) >= count, f"call {count} of {action}", timeout_s)
        return made()

    def limit(
        self, *, capacity_bytes: int | None = None, reserved_bytes: int | None = None
    ) -> None:
        """Change the capacity of the device, or how much of it another tenant occupies."""
        given = {"capacity": capacity_bytes, "reserved": reserved_bytes}
        self._ask_device(op="limits", **{k: v for k, v in given.items() if v is not None})

    def device(self) -> dict[str, Any]:
        """Return the device's used_bytes, clients, and allocations with their digests."""
        return self._ask_device(op="stats", detail=True)

    def held_bytes(self) -> int:
        """Return how much device memory containers hold, without that of another tenant."""
        return sum(client["bytes"] for client in self.device()["clients"])

    def _device_answers(self) -> bool:
        try:
            self._ask_device(op="stats")
        except Unavailable:
            return False
        return True

    def _ask_device(self, **request: Any) -> dict[str, Any]:
        try:
            client = DeviceClient(str(self.device_socket), name="simulation")
            with contextlib.closing(client):
                return client.call(request)[0]
        except (OSError, DeviceLost) as error:
            message = f"the simulated device does not respond: {error}"
            raise Unavailable(message) from error
