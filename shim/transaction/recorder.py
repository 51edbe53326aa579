"""Records where the time of one operation goes: its phases, commands and processes."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager
from datetime import datetime

import msgspec

from shim.errors import class_of
from shim.host import command_times
from shim.model import MAX_SPANS, Phase, Progress, Span, Timeline, utcnow

# A name or an error may be long; a timeline is to stay small.
_TEXT_MAX = 1000


class Recorder:
    """The spans of one operation, from its creation to `close`; what comes later is ignored.

    Background tasks that the operation has started keep it, so it keeps nothing once closed.
    """

    def __init__(self, operation: str, task: str) -> None:
        """Start the clock."""
        self.operation = operation
        self.task = task
        self._began_at: datetime = utcnow()
        self._zero = time.monotonic()
        self._phase = Phase.PREFLIGHT
        self._spans: list[Span] = []
        self._command_ended_s = 0.0
        self._closed = False

    @property
    def elapsed_s(self) -> float:
        """Return the time since the start."""
        return time.monotonic() - self._zero

    @property
    def recorded(self) -> tuple[Span, ...]:
        """Return what is recorded so far, in the order in which it began."""
        return tuple(sorted(self._spans, key=lambda span: (span.start_s, not span.is_phase)))

    @contextlib.contextmanager
    def step(self, phase: Phase) -> Iterator[None]:
        """Record a phase."""
        before, self._phase = self._phase, phase
        began_s = self.elapsed_s
        try:
            yield
        finally:
            self._add(Span(phase=phase), began_s, self.elapsed_s)
            self._phase = before

    def progress(self, progress: Progress) -> None:
        """Record the step of a process, if the time that it took was measured."""
        if progress.pid and progress.took_s:
            # It was taken in a command, and may be reported some time after that has ended.
            now_s = min(self.elapsed_s, self._command_ended_s or self.elapsed_s)
            span = Span(phase=progress.phase, pid=progress.pid, container=progress.container)
            self._add(span, now_s - progress.took_s, now_s)
            self._make_room(progress, now_s - progress.took_s)

    def _make_room(self, progress: Progress, began_s: float) -> None:
        """Put earlier steps of the process before its last one.

        A batch reports all steps at its end, in their order, each with its own duration.
        """
        before_s = began_s
        for at in range(len(self._spans) - 2, -1, -1):
            one = self._spans[at]
            if (one.pid, one.container) != (progress.pid, progress.container):
                continue
            if one.start_s + one.duration_s <= before_s:
                return
            start_s = max(before_s - one.duration_s, 0.0)
            self._spans[at] = msgspec.structs.replace(one, start_s=round(start_s, 6))
            before_s = start_s

    def commands(self) -> AbstractContextManager[None]:
        """Record the commands that are run in this context."""
        return command_times.observed_by(self._command)

    def _command(self, name: str, began: float, took_s: float) -> None:
        span = Span(phase=self._phase, name=name[:_TEXT_MAX])
        self._command_ended_s = began - self._zero + took_s
        self._add(span, began - self._zero, self._command_ended_s)

    def _add(self, span: Span, began_s: float, ended_s: float) -> None:
        # A phase ends after what is in it, and must not be what there is no room for.
        limit = MAX_SPANS if span.is_phase else MAX_SPANS - len(Phase) * 2
        if self._closed or len(self._spans) >= limit:
            return
        began_s = max(began_s, 0.0)
        duration_s = max(ended_s - began_s, 0.0)
        self._spans.append(
            msgspec.structs.replace(
                span, start_s=round(began_s, 6), duration_s=round(duration_s, 6)
            )
        )

    def timeline(self, error: BaseException | None = None) -> Timeline:
        """Return the timeline up to now."""
        return Timeline(
            operation=self.operation,
            task=self.task,
            began_at=self._began_at,
            total_s=round(self.elapsed_s, 6),
            spans=self.recorded,
            error="" if error is None else (str(error) or type(error).__name__)[:_TEXT_MAX],
            error_kind="" if error is None else class_of(error),
        )

    def close(self) -> None:
        """Record nothing any more."""
        self._closed = True
        self._spans.clear()
