"""The host as the checks see it: its settings, and where its files and programs are."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from shim.config import Config
from shim.doctor import features
from shim.doctor.disk import Disk, RealDisk
from shim.errors import CryoError, NotFound
from shim.host import files, mountinfo
from shim.runsc.program import which
from shim.runsc.run import Completed, run

_TEXT_BYTES = 4 << 20
_COMMAND_S = 8.0

Ask = Callable[[Sequence[str]], Awaitable[Completed]]
"""Runs a program and returns its status and output."""


async def ask(argv: Sequence[str]) -> Completed:
    """Run a program of this host.

    Raises:
        CryoError: it cannot be started, or does not end in time.
    """
    return await run(argv, timeout_s=_COMMAND_S)


@dataclass(frozen=True, kw_only=True)
class Host:
    """What the checks examine; the defaults are this host.

    Files of the system are below `root`, paths from `config` are used as they are. `settings_error`
    is why config.toml cannot be used, in which case `config` has the defaults. `socket` is the path
    of the sidecar's socket, None if its address is invalid.
    """

    config: Config
    settings_path: str = ""
    settings_error: CryoError | None = None
    socket: Path | None = None
    containerd_config: Path | None = None
    root: Path = Path("/")
    search: str = field(default_factory=lambda: os.environ.get("PATH", os.defpath))
    uid: int = field(default_factory=os.geteuid)
    machine: str = field(default_factory=lambda: os.uname().machine)
    release: str = field(default_factory=lambda: os.uname().release)
    features: Mapping[str, Callable[[], bool]] = field(default_factory=lambda: features.PROBES)
    disk: Disk = field(default_factory=RealDisk)
    ask: Ask = ask

    def at(self, path: str | Path) -> Path:
        """Return where a file of the system is."""
        return self.root / str(path).lstrip("/")

    def text(self, path: str) -> str:
        """Return the text of a file of the system; empty if there is none."""
        try:
            data = files.read_bounded(self.at(path), _TEXT_BYTES, nofollow=False)
        except NotFound:
            return ""
        return data.decode("utf-8", "replace")

    def has(self, feature: str) -> bool:
        """Try a feature of the kernel."""
        return self.features[feature]()

    def find(self, program: str) -> str:
        """Return the path of a program, by its name or path; empty if there is none."""
        return which(program, self.search) or ""

    def processes(self, name: str) -> list[int]:
        """List the processes whose name, of which the kernel keeps 15 characters, is this one."""
        found = []
        for path in self.at("/proc").glob("[0-9]*/comm"):
            with contextlib.suppress(OSError):  # it has exited
                if path.read_text("utf-8", "replace").strip() == name:
                    found.append(int(path.parent.name))
        return sorted(found)

    @cached_property
    def mounts(self) -> str:
        """The table of mounts, as in /proc/self/mountinfo."""
        return self.text("/proc/self/mountinfo")

    def mount_flags(self, path: Path) -> frozenset[str]:
        """Return the flags of the mount that a path is on, such as `noexec`."""
        found = mountinfo.holding(path.resolve(), self.mounts)
        return frozenset(found.flags.split(",")) if found else frozenset()
