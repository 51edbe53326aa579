"""The machine of a fault test: a simulation whose sidecar halts at a given point."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from shim.cuda import native
from shim.model import EngineName
from shim.simgpu.remote import Ran
from shim.simgpu.sandbox import Sandbox
from shim.simgpu.simulation import Simulation


@dataclass(frozen=True)
class Case:
    """One runsc, "new" or "old", with one of its engines, and with cryo-cuda or without."""

    version: str
    engine: EngineName
    helper: bool = True

    def __str__(self) -> str:
        """Return the name that test ids use."""
        return f"{self.version}-{self.engine if self.helper else 'steps'}"

    @property
    def batches(self) -> bool:
        """Whether one run moves all processes, so that no single step is visible."""
        return self.helper and self.engine is EngineName.PHASED and bool(native.path())


class Halting(Simulation):
    """A simulated machine whose sidecar is `tests.faults.sidecar`."""

    serve: ClassVar[tuple[str, ...]] = ("-m", "tests.faults.sidecar", "serve")

    @property
    def halt_file(self) -> Path:
        """The file with the next halt."""
        return self.folder / "halt.json"

    @property
    def trap_file(self) -> Path:
        """The file with the next trap."""
        return self.folder / "trap.json"


class Inside:
    """Runs programs in the sidecar's containers by raw runsc, without the sidecar.

    So the checks share no code with Cryoshim. Its runsc ids end in '+'.
    """

    def __init__(self, sim: Simulation) -> None:
        root = sim.folder / "state" / "runsc" / "default"
        self._box = Sandbox(sim.remote, sim.runsc, root, sim.flags)

    def exec(self, name: str, argv: Sequence[str], *, timeout_s: float = 60.0) -> Ran:
        """Run a program and wait for its exit."""
        return self._box.exec(f"{name}+", argv, timeout_s=timeout_s)

    def call(self, command: str, name: str) -> Ran:
        """Run a runsc command on a container."""
        return self._box.check(command, f"{name}+")

    def pids(self, name: str) -> set[int]:
        """List the processes of a container."""
        return set(self._box.pids(f"{name}+"))


def state_of(pid: int) -> str:
    """Return the kernel's state letter of a process, T if stopped; empty if it has exited."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text("utf-8").rpartition(")")[2].split()[0]
    return ""


def descriptors(pid: int) -> list[str]:
    """List the targets of a process's open descriptors."""
    found = [_target(entry) for entry in Path(f"/proc/{pid}/fd").iterdir()]
    # Strip the inode number of a socket or pipe.
    return [re.sub(r":\[\d+\]$", "", kind) for kind in found if kind]


def command_lines() -> Iterator[tuple[int, list[str]]]:
    """Yield the pid and the command line of each process of the host."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                raw = (entry / "cmdline").read_bytes()
                yield int(entry.name), raw.decode("utf-8", "replace").rstrip("\0").split("\0")


def _target(path: Path) -> str:
    with contextlib.suppress(OSError):
        return str(path.readlink())
    return ""
