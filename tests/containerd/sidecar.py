"""A containerd, and a sidecar that can serve its tasks."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, ClassVar

from shim.simgpu import toml
from shim.simgpu.remote import Ran
from shim.simgpu.waiting import PACKAGE_ROOT, START_S, environment, wait_until
from tests.containerd.builds import ContainerdBuild
from tests.containerd.cryo import Cryo
from tests.containerd.image import APPLETS
from tests.containerd.place import Place

EXAMPLE = PACKAGE_ROOT / "hack/examples/task_api.py"
_STORY_S = 120.0


class WithSidecar(Cryo):
    """Runs both for the context; `route` is how containerd connects to the Task service."""

    # Another one after a restart.
    ignored: ClassVar[tuple[str, ...]] = ("shim.entry.cli serve",)

    def __init__(self, build: ContainerdBuild, place: Place, runsc: Path, route: str) -> None:
        super().__init__(build, place, runsc)
        self._route = route
        self.sidecar_pid = 0

    def prepare(self) -> None:
        """Write the sidecar's settings, with containerd's address."""
        server = {"ttrpc": f"{self.folder}/ttrpc.sock", "containerd": f"{self.address}.ttrpc"}
        tables: toml.Tables = {"server": dict(server)}
        self._settings = toml.merge(self._settings, tables)
        super().prepare()

    def start(self) -> None:
        """Start both."""
        super().start()
        if not self.sidecar_pid:
            self.start_sidecar()

    @property
    def sidecar(self) -> str:
        """The address for the sidecar's own clients."""
        return f"unix://{self.folder}/cryo.sock"

    @property
    def rootfs(self) -> Path:
        """The root filesystem of the containers."""
        return self.folder / "busybox"

    @property
    def task_api(self) -> str:
        """The sidecar's address in containerd's form."""
        routes = {
            "grpc": f"grpc+{self.folder}/cryo.sock",
            "ttrpc": f"ttrpc+unix://{self.folder}/ttrpc.sock",
        }
        return routes[self._route]

    def start_sidecar(self) -> None:
        """Start the sidecar and wait until it listens."""
        said = self.folder / "sidecar.log"
        before = said.stat().st_size if said.exists() else 0
        argv = [sys.executable, "-m", "shim.entry.cli", "serve"]
        argv += ["--config", str(self.folder / "cryo.toml")]
        self.sidecar_pid = self.place.remote.spawn(argv, output=said, env=environment())
        wait_until(lambda: b"for containerd" in said.read_bytes()[before:], "sidecar", START_S)

    def kill_sidecar(self) -> None:
        """Kill the sidecar with SIGKILL."""
        pid, self.sidecar_pid = self.sidecar_pid, 0
        self.place.remote.kill(pid)
        self.place.remote.wait(pid, START_S)

    @property
    def sidecar_runs(self) -> bool:
        """Whether the sidecar that was started last runs."""
        return self.place.remote.wait(self.sidecar_pid, 0) is None

    def example(self) -> Ran:
        """Run the example program."""
        options: dict[str, Any] = {
            "--containerd": self.address,
            "--sidecar": self.task_api,
            "--namespace": self.namespace,
            "--bundle-rootfs": self.rootfs,
        }
        words = [str(word) for pair in options.items() for word in pair]
        argv = [sys.executable, str(EXAMPLE), *words]
        ran = self.place.remote.run(argv, timeout_s=_STORY_S, env=environment())
        return self.checked(ran, "the example")


def write_rootfs(folder: Path, busybox: Path) -> Path:
    """Create a root filesystem with busybox; return it."""
    for name in ("bin", "proc", "tmp"):
        (folder / name).mkdir(parents=True)
    program = folder / "bin/busybox"
    program.write_bytes(busybox.read_bytes())
    program.chmod(0o755)
    for applet in APPLETS:
        (folder / "bin" / applet).symlink_to("busybox")
    return folder
