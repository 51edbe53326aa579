"""A simulated machine from inside of its namespace: a client of its sidecar, and plain runsc."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hack.bench import command, inside
from hack.bench.effort import Effort
from hack.bench.row import Rows
from shim.client import Client
from shim.errors import Unavailable
from shim.model import Stdio
from shim.simgpu.simulation import Simulation

TASK = "bench"
_LIMIT_S = 300.0
_KILL = 9


class Machine:
    """Starts tasks at the sidecar, and containers with runsc alone; both in one runsc root, too."""

    def __init__(self, given: Mapping[str, Any]) -> None:
        self.folder = Path(given["folder"])
        self.images = self.folder / "images"
        self.plain_root = self.folder / "state" / "plain"
        self.client = Client(given["address"])
        self._runsc = [given["runsc"], *given["flags"]]
        # Where the sidecar's containers are.
        self._root = self.folder / "state" / "runsc" / "default"

    def bundle(self, name: str) -> Path:
        """Return the bundle that was made before under this name."""
        return self.folder / "bundles" / name

    def plain(
        self, *arguments: str, root: Path | None = None, stdout: int = subprocess.DEVNULL
    ) -> None:
        """Run one runsc command, on the sidecar's containers unless a root is given."""
        # The sandbox keeps the streams of a restore open, so they must not be pipes to be read.
        argv = [*self._runsc, f"--root={root or self._root}", *arguments]
        command.check(argv, limit_s=_LIMIT_S, stdout=stdout)

    def exec(self, script: str) -> str:
        """Run a shell command in the task with runsc alone; return its output."""
        with tempfile.TemporaryFile() as out:  # no pipe, which a child could keep open
            argv = [*self._runsc, f"--root={self._root}", "exec", f"{TASK}+", "sh", "-c", script]
            command.check(argv, limit_s=_LIMIT_S, stdout=out)
            out.seek(0)
            return out.read().decode("utf-8", "replace")

    def save_plain(
        self, path: Path, *, leave_running: bool = False, name: str = "", root: Path | None = None
    ) -> None:
        """Run the runsc command that our checkpoint is compared with."""
        how = ["--compression=none", f"--image-path={path}"]
        how += ["--leave-running"] if leave_running else []
        self.plain("checkpoint", *how, name or f"{TASK}+", root=root)

    def load_plain(
        self, bundle: Path, path: Path, name: str, *options: str, stdout: int = subprocess.DEVNULL
    ) -> None:
        """Run the runsc command that our restore is compared with."""
        how = ("restore", "--detach", f"--bundle={bundle}", f"--image-path={path}", *options)
        self.plain(*how, name, root=self.plain_root, stdout=stdout)

    def remove_plain(self, name: str) -> None:
        """Remove a container of plain runsc, and reap its sandbox."""
        self.plain("delete", "--force", name, root=self.plain_root)
        reap()

    @contextmanager
    def task(self, bundle: str, *, stdout: Path | None = None, name: str = TASK) -> Iterator[None]:
        """Run a task and remove it afterwards."""
        stdio = Stdio(stdout=str(stdout or ""))
        self.client.create(name, str(self.bundle(bundle)), stdio=stdio)
        self.client.start(name)
        try:
            yield
        finally:
            self.end(name)

    def end(self, name: str = TASK) -> None:
        """Kill and delete a task."""
        self.client.kill(name, _KILL, everyone=True)
        self.client.wait(name)
        self.client.delete(name)

    def image(self, name: str = "one") -> Path:
        """Return the path for an image, after removing the previous one and syncing the disk."""
        path = self.images / name
        shutil.rmtree(path, ignore_errors=True)
        os.sync()
        return path


def reap() -> None:
    """Reap sandboxes that this process has adopted."""
    while True:
        try:
            pid, _ = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if pid == 0:
            return


def start(sim: Simulation) -> None:
    """Start the sidecar, with the state of all containers in memory, as /run is.

    Raises:
        Unavailable: it cannot be mounted there, or the sidecar does not start.
    """
    ran = sim.remote.run(["mount", "-t", "tmpfs", "tmpfs", str(sim.folder / "state")])
    if ran.status:
        raise Unavailable(ran.err.strip(), remedy="run as root")
    sim.start_sidecar()


def measure(
    sim: Simulation,
    part: Callable[[inside.Given, Effort], Rows],
    effort: Effort,
    **more: Any,
) -> Rows:
    """Run a part of a case in the namespace of a machine whose sidecar runs."""
    flags = [f"--{name}={value}" for name, value in sim.flags.items()]
    facts = {"folder": str(sim.folder), "runsc": str(sim.runsc), "address": sim.address}
    return inside.run(sim.remote, sim.folder, part, effort, {**facts, "flags": flags, **more})
