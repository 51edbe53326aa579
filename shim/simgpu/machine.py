"""A test machine in a directory: a private namespace, workloads, plain runsc, and a sidecar."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import sys
from collections.abc import Mapping
from pathlib import Path
from tempfile import mkdtemp
from types import TracebackType
from typing import Any, ClassVar, Self

from shim.errors import DeadlineExceeded, Unavailable
from shim.host.unix_socket import peer_credentials
from shim.simgpu import bundle, toml, tools
from shim.simgpu.agent import remove
from shim.simgpu.bundle import Settings
from shim.simgpu.namespace import Namespace
from shim.simgpu.questions import Questions
from shim.simgpu.remote import Remote
from shim.simgpu.sandbox import Sandbox
from shim.simgpu.waiting import END_S, START_S, environment, wait_until

_FOLDERS = ("rootfs", "code", "device", "bundles", "images", "state", "scratch", "tools")
_PATHS = ("state", "images", "verified", "scratch")
_TAIL = 2000

FLAGS = {"network": "none", "ignore-cgroups": "true"}


class Machine(Questions):
    """A context manager; on exit, or if this process dies, its processes and files are removed."""

    # The arguments of the interpreter that start the sidecar.
    serve: ClassVar[tuple[str, ...]] = ("-m", "shim.entry.cli", "serve")
    # Whether the host's own /dev is used.
    host_dev: ClassVar[bool] = False

    def __init__(self, runsc: Path) -> None:
        self.runsc = runsc
        self.flags = dict(FLAGS)
        self.folder = Path()
        self.remote = Remote(Path())
        self._namespace: Namespace | None = None
        self._sidecar = 0

    # For subclasses.

    def equip(self) -> None:
        """Add files to the machine's directory, before any process runs."""

    def switch_on(self) -> None:
        """Start what the machine needs in its namespace."""

    def settings_of_cuda(self) -> dict[str, Any]:
        """Return the table `cuda` of config.toml."""
        return {}

    def settings_of_host(self) -> dict[str, Any]:
        """Return the table `host` of config.toml."""
        return {}

    def hardware(self, content: dict[str, Any], settings: Settings) -> None:
        """Add the GPU to a workload's spec."""

    # Setup and teardown.

    def __enter__(self) -> Self:
        self.folder = Path(mkdtemp(prefix="cryo-sim-"))
        try:
            self._make()
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self._end()

    def _make(self) -> None:
        for name in _FOLDERS:
            (self.folder / name).mkdir()
        self.folder.chmod(0o711)
        tools.write_guest_code(self.folder / "code")
        self.equip()
        self._namespace = Namespace(self.folder, host_dev=self.host_dev)
        self.remote = self._namespace.remote
        self.switch_on()

    def _end(self) -> None:
        namespace, self._namespace = self._namespace, None
        if namespace is not None:
            namespace.close()
        else:
            remove(self.folder)

    # Containers.

    def bundle(
        self,
        name: str,
        settings: Settings | None = None,
        *,
        tool: Path | None = None,
        readonly: bool = True,
        annotations: Mapping[str, str] | None = None,
    ) -> Path:
        """Write the bundle of a workload; `tool` is mounted as its cuda-checkpoint."""
        chosen = settings or Settings()
        content = bundle.spec(
            self.folder / "rootfs",
            self.folder / "code",
            self.folder / "device",
            chosen,
            hostname=name,
            tool=tool,
            readonly=readonly,
        )
        if chosen.gpu or chosen.nvml_only:
            self.hardware(content, chosen)
        if annotations:
            content["annotations"] = dict(annotations)
        return bundle.write(self.folder / "bundles" / name, content)

    def sandbox(self) -> Sandbox:
        """Return plain runsc on this machine.

        By default runsc would put the overlay's file into the root of the host's filesystem.
        """
        flags = {"overlay2": f"root:dir={self.folder}/scratch", **self.flags}
        return Sandbox(self.remote, self.runsc, self.folder / "runsc", flags)

    def image(self, name: str) -> Path:
        """Return a path for an image that does not exist yet."""
        return self.folder / "images" / name

    def small_disk(self, name: str, size_bytes: int) -> Path:
        """Mount a small tmpfs in the namespace and return its directory.

        Outside the namespace the directory is empty.
        """
        folder = self.folder / "images" / name
        folder.mkdir()
        argv = ["mount", "-t", "tmpfs", "-o", f"size={size_bytes}", "tmpfs", str(folder)]
        ran = self.remote.run(argv)
        if ran.status:
            raise Unavailable(ran.err.strip())
        return folder

    # The sidecar.

    @property
    def address(self) -> str:
        """The address of the sidecar."""
        return f"unix://{self.folder}/run/cryo.sock"

    @property
    def sidecar_pid(self) -> int:
        """The sidecar's pid, 0 if there is none."""
        return self._sidecar

    @property
    def sidecar_log(self) -> Path:
        """The file with the sidecar's output."""
        return self.folder / "sidecar.log"

    def write_config(self, **more: dict[str, Any]) -> Path:
        """Write config.toml for this machine; `more` adds to its tables, by name."""
        tables: toml.Tables = {
            "paths": {name: str(self.folder / name) for name in _PATHS},
            "server": {"address": self.address},
            "runsc": {"binary": str(self.runsc)},
            "runsc.flags": dict(self.flags),
            "cuda": self.settings_of_cuda(),
            "host": self.settings_of_host(),
        }
        path = self.folder / "config.toml"
        path.write_text(toml.dump(toml.merge(tables, more)), "utf-8")
        return path

    def start_sidecar(self, *arguments: str, **more: dict[str, Any]) -> int:
        """Start `cryo serve` in the namespace and wait until it listens; return its pid.

        Example:
            sim.start_sidecar(timeouts={"lock": 2.0}, defaults={"engine": "phased"})
        """
        config = self.write_config(**more)
        argv = [sys.executable, *self.serve, "--config", str(config), *arguments]
        self._sidecar = self.remote.spawn(
            argv, output=self.sidecar_log, env=environment(), cwd=str(self.folder)
        )
        try:
            wait_until(self._sidecar_listens, "the sidecar", START_S)
        except DeadlineExceeded as error:
            error.remedy = self._last_words()
            error.add_note(error.remedy)
            raise
        return self._sidecar

    def _sidecar_listens(self) -> bool:
        if self.remote.wait(self._sidecar, 0) is not None:
            message = f"the sidecar exited: {self._last_words()}"
            raise Unavailable(message)
        return _listens(self._sidecar, self.folder / "run" / "cryo.sock")

    def _last_words(self) -> str:
        return self.sidecar_log.read_text("utf-8", "replace")[-_TAIL:].strip()

    def stop_sidecar(
        self, number: signal.Signals = signal.SIGTERM, timeout_s: float = END_S
    ) -> int | None:
        """Signal the sidecar, wait until it exits, and return its exit status."""
        pid, self._sidecar = self._sidecar, 0
        if not pid:
            return None
        self.remote.kill(pid, number)
        return self.remote.wait(pid, timeout_s)

    def kill_sidecar(self) -> None:
        """Kill the sidecar with SIGKILL, as in a crash."""
        self.stop_sidecar(signal.SIGKILL)


def _listens(pid: int, path: Path) -> bool:
    """Return whether this process listens at a socket.

    A child of a killed sidecar holds the socket of that one until it executes its program.
    """
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(str(path))
        except OSError:
            return False
        return peer_credentials(probe).pid == pid


def can_run(runsc: Path | None) -> str:
    """Return in one line why no machine can be created here; empty if no reason is found."""
    if os.geteuid() != 0:
        return "runsc and the private /dev need root: run it with sudo"
    if runsc is None or not shutil.which(str(runsc)):
        return "runsc was not found: name it with --runsc, or run `make tools`"
    return ""
