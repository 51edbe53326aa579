"""What follows from the answers of a survey: the end of a checkpoint, or a line of a report."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Protocol

from shim.host.filecalls import file_call
from shim.image.images import Images
from shim.model import Progress
from shim.transaction import host_settings, preflight
from shim.transaction.preflight import Disk
from shim.transaction.questions import Question
from shim.transaction.target import CheckpointTarget
from shim.transaction.transaction import Transaction


class Judge(Protocol):
    """Decides for a survey what its checks alone cannot."""

    def about(self, question: Question) -> AbstractContextManager[None]:
        """Take what is refused or warned of within the block as an answer about a question."""

    def warn(self, *warnings: str) -> None:
        """Take warnings."""

    def report(self, progress: Progress) -> None:
        """Take progress."""

    async def resume(self) -> None:
        """Resume the sandbox, in which programs are to run."""

    async def make_room(self, needed_bytes: int, folder: Path, disk: Disk) -> Disk:
        """Make room for an image by the policy of the store; return the disk after that."""

    def host_warnings(self) -> tuple[str, ...]:
        """Return warnings of settings of the host."""


class Strict:
    """The judge of a checkpoint: the first refusal ends it, and room is made."""

    def __init__(
        self,
        target: CheckpointTarget,
        transaction: Transaction,
        resume: Callable[[], Awaitable[None]],
    ) -> None:
        """Take what warnings go to; `resume` ends a pause until the rollback."""
        self._target = target
        self._resume = resume
        self.warn = transaction.warn
        self.report = transaction.report

    def about(self, question: Question) -> AbstractContextManager[None]:
        """Let every error pass."""
        del question
        return nullcontext()

    async def resume(self) -> None:
        """Resume the sandbox."""
        await self._resume()

    async def make_room(self, needed_bytes: int, folder: Path, disk: Disk) -> Disk:
        """Remove images by the policy; measure again if any was."""
        if not await Images(self._target.config).make_room(needed_bytes, folder):
            return disk
        return await measure_disk(self._target, folder)

    def host_warnings(self) -> tuple[str, ...]:
        """Return the warnings that this process has not given yet."""
        return host_settings.new_warnings(self._target.config)


async def measure_disk(target: CheckpointTarget, folder: Path) -> Disk:
    """Measure the memory of the sandbox, and the disk of its image.

    Raises:
        CryoError: the filesystem does not answer.
    """
    return await file_call(
        lambda: preflight.measure_disk(target, folder), doing=f"measure the disk of {folder}"
    )
