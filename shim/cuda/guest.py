"""The inside of one container, as the CUDA rooms see it: run a program there, list, end one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from shim.runsc.client import GuestProcess
from shim.runsc.run import Completed


class Guest(Protocol):
    """Programs run inside one container; everything they print is untrusted."""

    async def run(self, argv: Sequence[str], *, timeout_s: float) -> Completed:
        """Run a program to its end; its exit status is an answer.

        Raises:
            DeadlineExceeded: it did not end in time; it was killed inside the container too.
            NotFound: the image has no such program.
        """

    async def ps(self) -> list[GuestProcess]:
        """List the container's processes, by the numbers of the sandbox."""

    async def own_numbers(self, rows: list[GuestProcess]) -> dict[int, int] | None:
        """Give the container's own number for each of `ps`; None where it is not known."""

    async def has(self, pid: int) -> bool:
        """Whether there is a process of this number, by the container's own counting."""

    async def end(self, pid: int) -> None:
        """Kill one process by its number in `ps`; gone already is fine."""

    async def settle(self) -> None:
        """Make the sentry run the CUDA steps it still owes; it may owe none."""
