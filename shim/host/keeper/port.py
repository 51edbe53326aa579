"""What the rooms above need of a keeper, the separate process or the one inside a shim."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from shim.host.keeper.client import Exited, Spawned


class KeeperPort(Protocol):
    """Starts what outlives a call, knows how it ended, and holds descriptors by name."""

    @property
    def closed(self) -> bool:
        """Tell whether it can no longer be asked."""

    async def spawn(
        self,
        argv: Sequence[str],
        *,
        stdin: int,
        stdout: int,
        stderr: int,
        cwd: str = "/",
        env: Mapping[str, str] | None = None,
        pass_fds: Sequence[int] = (),
    ) -> Spawned:
        """Start a program in a session of its own."""

    async def wait(self, pid: int, start: int) -> Exited:
        """Return how a process ended, when it has."""

    async def hold(self, name: str, fd: int) -> None:
        """Keep a copy of `fd` open under `name`."""

    async def fetch(self, name: str) -> int | None:
        """Return a copy of what is held under `name`."""

    async def drop(self, name: str) -> None:
        """Close what is held under `name`; nothing there is fine."""

    async def close(self) -> None:
        """Let go of it."""
