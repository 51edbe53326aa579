"""Where an owner process lives: its part of the state folder, its keeper, what it takes over."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Protocol

from shim.errors import CryoError
from shim.host.keeper.client import Keeper
from shim.host.keeper.local import LocalKeeper
from shim.host.keeper.port import KeeperPort
from shim.runsc.run import is_child
from shim.task.layout import Layout


class House(Protocol):
    """One owner's place."""

    adopts: bool
    address: str

    async def enter(self) -> tuple[Layout, KeeperPort]:
        """Make the folders, take what locks them, reach the keeper."""

    def leave(self) -> None:
        """Let others have the place."""


class SidecarHouse:
    """The sidecar's: a state folder of its own, whose tasks it takes over from the one before."""

    adopts = True
    address = ""

    def __init__(self, state: Path) -> None:
        self._layout = Layout(state)
        self._claim = -1

    async def enter(self) -> tuple[Layout, KeeperPort]:
        """Lock the state folder and reach the keeper, which outlives us.

        Raises:
            AlreadyExists: another sidecar owns the folder.
            Unavailable: the keeper does not start.
        """
        self._layout.prepare()
        self._claim = self._layout.claim()
        return self._layout, await Keeper.connect(self._layout.state)

    def leave(self) -> None:
        """Unlock the state folder."""
        if self._claim >= 0:
            with contextlib.suppress(CryoError):  # the next owner will
                self._layout.tidy()
            os.close(self._claim)
            self._claim = -1


class ShimHouse:
    """A shim's: a folder that the shims of one containerd share, each with its own tasks."""

    adopts = False

    def __init__(self, state: Path, address: str) -> None:
        """Take the folder, and the socket by which others reach this shim."""
        self._layout = Layout(state)
        self.address = address

    async def enter(self) -> tuple[Layout, KeeperPort]:
        """Make the folders and become the keeper of our own tasks."""
        self._layout.prepare()
        return self._layout, LocalKeeper(is_child)

    def leave(self) -> None:
        """Nothing is locked: what names a task is made by one process only."""
