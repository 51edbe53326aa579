"""What the layers above need of a supervisor: the separate process, or the one inside a shim."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from shim.host.process_id import ProcessId
from shim.host.supervisor.exits import Exited


class ProcessSupervisor(Protocol):
    """Starts what outlives a call, knows how it ended, and holds descriptors by name."""

    @property
    def closed(self) -> bool:
        """Return whether it was closed, so that it can no longer be asked."""

    async def spawn(
        self,
        argv: Sequence[str],
        *,
        stdin: int,
        stdout: int,
        stderr: int,
        env: Mapping[str, str] | None = None,
        pass_fds: Sequence[int] = (),
    ) -> ProcessId:
        """Start a program in a session of its own, in the folder `/`, with default signals.

        The descriptors stay the caller's, who may close them at once; `pass_fds` are 3, 4, 5...
        in the program. A terminal as stdin becomes its controlling terminal. No `env` means this
        process's own.

        Raises:
            NotFound: no such program.
            InvalidArgument: a NUL in an argument, or a variable that is none.
        """

    async def wait(self, pid: int, start: int) -> Exited:
        """Return how a process ended, when it has: a child, an orphan, or any other process.

        Many may wait for one process; a wait may be cancelled and asked again.
        """

    async def hold(self, name: str, fd: int) -> None:
        """Keep a copy of `fd` open under `name`, in place of an earlier one."""

    async def fetch(self, name: str) -> int | None:
        """Return a copy of what is held under `name`, which is then the caller's to close."""

    async def drop(self, name: str) -> None:
        """Close what is held under `name`; nothing there is fine."""

    async def close(self) -> None:
        """Let go of it."""
