"""One container as this package uses it: run a program in it, list and kill its processes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from shim.runsc.command_exec import Process
from shim.runsc.output import GuestProcess
from shim.runsc.run import Completed


class Guest(Protocol):
    """Runs programs inside one container; their output is untrusted."""

    async def run(
        self, argv: Sequence[str], *, timeout_s: float, process: Process | None = None
    ) -> Completed:
        """Run a program and return its output; a non-zero exit status is no error.

        With an OCI process object it runs with the user, environment and the rest of that.

        Raises:
            DeadlineExceeded: it did not exit in time; it was killed inside the container too.
            NotFound: the container has no such program.
        """

    async def ps(self) -> list[GuestProcess]:
        """List the container's processes, with the numbers of the sandbox."""

    async def own_numbers(self, rows: list[GuestProcess]) -> dict[int, int] | None:
        """Map the numbers of `ps` to the container's own; None where that is not known."""

    async def has(self, pid: int) -> bool:
        """Whether there is a process of this number, by the container's own counting."""

    async def end(self, pid: int) -> None:
        """Kill one process by its number in `ps`; one that has exited is no error."""

    async def settle(self) -> None:
        """Make the sentry run its pending CUDA steps, if there are any."""
