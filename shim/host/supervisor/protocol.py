"""The interface of a supervisor: the separate process, or the one inside a shim."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from shim.host.process_id import ProcessId
from shim.host.supervisor.exits import Exited


class ProcessSupervisor(Protocol):
    """Starts processes that outlive a call, returns their exits, and holds descriptors by name."""

    @property
    def closed(self) -> bool:
        """Return whether it was closed and can no longer be called."""

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
        """Start a program in its own session, in the directory `/`, with default signals.

        The caller keeps the descriptors and may close them at once; `pass_fds` are 3, 4, 5... in
        the program. If stdin is a terminal, it becomes the controlling terminal. Without `env`
        the program gets this process's filtered environment (`shim.host.environment`).

        Raises:
            NotFound: no such program.
            InvalidArgument: a NUL in an argument, or an invalid variable.
        """

    async def wait(self, pid: int, start: int) -> Exited:
        """Wait for a process (a child, an orphan, or any other) and return its exit.

        Several callers may wait for one process; a wait may be cancelled and repeated.
        """

    async def hold(self, name: str, fd: int) -> None:
        """Keep a copy of `fd` open under `name`, replacing an earlier one."""

    async def fetch(self, name: str) -> int | None:
        """Return a copy of the descriptor held under `name`; the caller closes it."""

    async def drop(self, name: str) -> None:
        """Close what is held under `name`, if anything."""

    async def close(self) -> None:
        """Release it; it can no longer be called."""
