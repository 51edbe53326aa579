"""One operation on a sandbox, completed or undone: phases, deadline, commit and rollback."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

import msgspec

from shim.errors import CryoError, CudaError, DeadlineExceeded, ResourceExhausted
from shim.host.shielded import GRACE_S, shielded, succeeded
from shim.model import Phase, Progress, Report, Timeline
from shim.transaction import observers, timeline_file
from shim.transaction.journal import Journal
from shim.transaction.recorder import Recorder

T = TypeVar("T")
_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class UndoStep:
    """One step of a rollback; `doing` names it, `held_up` what it waits for at its deadline."""

    doing: str
    work: Callable[[], Awaitable[None]]
    deadline_s: float
    held_up: Callable[[], str]


class Transaction:
    """The phases of one operation, its commit, and its rollback.

    Until `commit` has succeeded, a failure, a cancellation or the deadline undoes everything.
    After it nothing is undone: the rest is completed although the caller is cancelled or the
    deadline has passed, and an error then is raised as "committed, but ...".
    """

    def __init__(
        self,
        doing: str,
        journal: Journal,
        report: Report,
        *,
        deadline_s: float,
        late: Callable[[], DeadlineExceeded] | None = None,
    ) -> None:
        """Start the clock; `doing` names the operation in messages.

        `late` makes the error at the deadline; without it the error names the phase.
        """
        self.phase = Phase.PREFLIGHT
        self.timings_s: dict[str, float] = {}
        self.warnings: list[str] = []
        # The result of the commit: "the image X is complete"; empty before it.
        self.committed = ""
        # The reason of the rollback.
        self.cause: BaseException | None = None
        # The first undo step that failed.
        self.failed: CryoError | None = None
        self.over = False
        self._doing = doing
        self._late = late
        self._journal = journal
        self._report = report
        # The folder of the journal is that of the task.
        self.recorder = Recorder(doing.partition(" of ")[0], journal.path.parent.name)
        self._timed_from = time.monotonic()
        self._deadline_s = deadline_s
        self._committing = False
        self._begun = False
        self._undo: list[UndoStep] = []

    # -- progress ------------------------------------------------------------------------------

    @contextlib.contextmanager
    def step(self, phase: Phase) -> Iterator[None]:
        """Record, report and time a phase."""
        self.phase = phase
        self._journal.note(phase=phase)
        self.report(Progress(phase=phase))
        began = time.monotonic()
        try:
            with self.recorder.step(phase):
                yield
        finally:
            spent = time.monotonic() - began
            self.timings_s[phase] = round(self.timings_s.get(phase, 0.0) + spent, 6)

    def report(self, progress: Progress) -> None:
        """Publish progress, with the time since the start."""
        self.recorder.progress(progress)
        elapsed = round(self.recorder.elapsed_s, 6)
        self._report(msgspec.structs.replace(progress, elapsed_s=elapsed))

    def keep_timeline(self, timeline: Timeline) -> None:
        """End the record of where the time went, and keep it with the task."""
        self.recorder.close()
        timeline_file.add(self._journal.path.parent, timeline)

    def warn(self, *warnings: str) -> None:
        """Publish each warning once, and keep it for the result."""
        for text in warnings:
            if text not in self.warnings:
                self.warnings.append(text)
                self.report(Progress(phase=self.phase, message=text, warning=True))

    # -- running -------------------------------------------------------------------------------

    async def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Run the work, or a part of it; on a failure before the commit undo everything.

        Work that succeeds although it was cancelled returns its result.

        Raises:
            CryoError: why it failed, or what failed after the commit.
            DeadlineExceeded: the operation took too long; the message names the phase.
        """
        self._begin()
        with self.recorder.commands():
            task = asyncio.ensure_future(work)
        interrupted = await self._wait_for_end(task)
        if succeeded(task):
            return task.result()
        failure = None if task.cancelled() else task.exception()
        cause = failure or interrupted or asyncio.CancelledError()
        if self.committed:
            raise self._committed_but(cause) from cause
        await self.roll_back(cause)
        raise cause

    def _begin(self) -> None:
        """Report the operation, once: a restore of a pod runs part by part."""
        if not self._begun:
            self._begun = True
            observers.began(self._journal.path.parent, self.recorder.operation)

    async def _wait_for_end(self, task: asyncio.Future[Any]) -> BaseException | None:
        """Wait for the end of the work; return what interrupted it, if anything did.

        It is cancelled once: a second cancellation would interrupt its clean-up.
        """
        interrupted: BaseException | None = None
        while not task.done():
            left_s = None if interrupted else max(self.left_s, 0.0)
            try:
                await asyncio.wait({task}, timeout=left_s)
            except asyncio.CancelledError as error:
                why: BaseException = error
            else:
                why = self.late()
            if interrupted is None and not task.done():
                interrupted = why
                self._interrupt(task)
        return interrupted

    def _interrupt(self, task: asyncio.Future[Any]) -> None:
        """Cancel the work, except during and after its commit: then it is completed."""
        if not self.committed and not self._committing:
            task.cancel()

    @property
    def left_s(self) -> float:
        """Return the time until the deadline."""
        return self._timed_from + self._deadline_s - time.monotonic()

    def renew(self) -> None:
        """Restart the time until the deadline."""
        self._timed_from = time.monotonic()

    def late(self) -> DeadlineExceeded:
        """Make the error for the deadline."""
        if self._late is not None:
            return self._late()
        message = f"{self._doing} did not end in {self._deadline_s:g} s"
        return DeadlineExceeded(
            f"{message}: it was in phase {self.phase}", remedy="raise --timeout"
        )

    async def commit(self, work: Coroutine[Any, Any, None], *, made: str) -> None:
        """Do what cannot be undone; `made` describes the result in messages.

        Raises:
            CryoError: it failed, and can still be undone.
        """
        self._committing = True
        try:
            await shielded(work, deadline_s=None)
        finally:
            self._committing = False
        self.committed = made
        # From here on a journal that cannot be written must not fail the operation.
        self._journal.allow_write_errors()
        self._journal.note(committed=True)

    def _committed_but(self, cause: BaseException) -> CryoError:
        """Make the error that reports the result of the commit, and what failed after it."""
        message = getattr(cause, "message", "") or str(cause) or type(cause).__name__
        remedy = getattr(cause, "remedy", "")
        if self.committed not in message:
            message = f"{self.committed}, but {message}"
        for kind in (ResourceExhausted, DeadlineExceeded, CudaError):
            if isinstance(cause, kind):
                return kind(message, remedy=remedy)
        if not isinstance(cause, CryoError):
            _log.error("%s: %s", self._doing, message, exc_info=cause)
        return CryoError(message, remedy=remedy)

    # -- undoing -------------------------------------------------------------------------------

    def undo_with(
        self,
        doing: str,
        work: Callable[[], Awaitable[None]],
        *,
        deadline_s: float,
        held_up: Callable[[], str] = lambda: "",
    ) -> None:
        """Add a step to the rollback, which runs from the last step to the first.

        A step that fails does not prevent the earlier ones; they can read its error in `failed`.
        """
        self._undo.append(UndoStep(doing=doing, work=work, deadline_s=deadline_s, held_up=held_up))

    async def roll_back(self, cause: BaseException) -> None:
        """Undo everything, even if the caller is cancelled meanwhile.

        Raises:
            CudaError: a step failed.
        """
        self.over = True
        self.cause = cause
        self._journal.allow_write_errors()
        self.report(Progress(phase=Phase.ROLLBACK, message=str(cause)))
        with self.recorder.step(Phase.ROLLBACK), self.recorder.commands():
            undoing = self._undo_all()
            await shielded(undoing, deadline_s=None, doing=f"the rollback of {self._doing}")
        if self.failed is not None and self.committed:
            raise self._committed_but(self.failed) from self.failed
        if self.failed is not None:
            raise _failed_rollback(cause, self.failed) from self.failed

    async def _undo_all(self) -> None:
        while self._undo:
            step = self._undo.pop()
            try:
                # The second deadline is for a step that ignores its cancellation at the first.
                limit_s = step.deadline_s + GRACE_S
                undoing = in_time(step.deadline_s, step.work(), step.held_up)
                await shielded(undoing, deadline_s=limit_s, doing=step.doing)
            except CryoError as error:
                _log.warning("%s: to %s failed: %s", self._doing, step.doing, error)
                self.failed = self.failed or error
            except Exception as error:  # noqa: BLE001 - the other steps must run
                _log.exception("%s: to %s failed", self._doing, step.doing)
                text = f"cannot {step.doing}: {type(error).__name__}: {error}"
                self.failed = self.failed or CryoError(text)


async def in_time(limit_s: float, work: Awaitable[None], held_up: Callable[[], str]) -> None:
    """Await a rollback, or a part of it.

    Raises:
        DeadlineExceeded: it took longer; the message names what `held_up` it.
    """
    try:
        async with asyncio.timeout(limit_s):
            await work
    except TimeoutError as error:
        raise _late_rollback(limit_s, held_up()) from error


def _late_rollback(timeout_s: float, held_up: str) -> DeadlineExceeded:
    """Make the error for a rollback that took too long; `held_up` is what it waited for."""
    message = f"it did not end in {timeout_s:g} s"
    return DeadlineExceeded(
        f"{message}: {held_up}" if held_up else message,
        remedy="check those processes; a restart of the sidecar repeats the rollback",
    )


def _failed_rollback(cause: BaseException, failed: CryoError) -> CudaError:
    """Make the error for an operation that failed, and whose rollback failed too."""
    message = f"{str(cause) or 'cancelled'}; and then the rollback failed: {failed.message}"
    return CudaError(message, remedy=failed.remedy)
