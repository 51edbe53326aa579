"""An owner process's environment: its state directory, its supervisor, what it adopts."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Protocol

from shim.errors import CryoError
from shim.host.supervisor.client import SupervisorClient
from shim.host.supervisor.local import LocalSupervisor
from shim.host.supervisor.protocol import ProcessSupervisor
from shim.runsc.run import is_child
from shim.task.layout import Layout


class RuntimeEnv(Protocol):
    """The environment of one owner process."""

    adopts: bool
    address: str

    async def enter(self) -> tuple[Layout, ProcessSupervisor]:
        """Make the folders, lock them, connect to the supervisor."""

    def leave(self) -> None:
        """Release it for another owner."""


class SidecarEnv:
    """The sidecar's: a state directory of its own, whose tasks it adopts from its predecessor."""

    adopts = True
    address = ""

    def __init__(self, state: Path) -> None:
        self._layout = Layout(state)
        self._lock = -1

    async def enter(self) -> tuple[Layout, ProcessSupervisor]:
        """Lock the state folder and reach the supervisor, which outlives this process.

        Raises:
            AlreadyExists: another sidecar owns the folder.
            Unavailable: the supervisor does not start.
        """
        self._layout.prepare()
        self._lock = self._layout.lock()
        return self._layout, await SupervisorClient.connect(self._layout.state)

    def leave(self) -> None:
        """Unlock the state folder."""
        if self._lock >= 0:
            with contextlib.suppress(CryoError):  # the next owner will
                self._layout.tidy()
            os.close(self._lock)
            self._lock = -1


class ShimEnv:
    """A shim's: a directory that the shims of one containerd share, each with its own tasks."""

    adopts = False

    def __init__(self, state: Path, address: str) -> None:
        """Take the folder, and the socket by which others reach this shim."""
        self._layout = Layout(state)
        self.address = address

    async def enter(self) -> tuple[Layout, ProcessSupervisor]:
        """Make the folders and supervise our own tasks in this process."""
        self._layout.prepare()
        return self._layout, LocalSupervisor(is_child)

    def leave(self) -> None:
        """Do nothing: no lock is needed, as one process alone creates the files of a task."""
