"""Turns the progress of a checkpoint or restore into a timeline of its phases."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace

from shim.model import Phase, Progress
from shim.selftest.outcome import Span

_NOTICEABLE_S = 0.0005
_FRAGMENT_S = 0.01
_INSIDE = frozenset({Phase.DETECT})  # of one process, within another phase


class Timeline:
    """The phases of one operation; `end` closes the last one."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._zero = clock()
        self._phase = ""
        self._began_s = 0.0
        self._bytes = 0
        self._done: list[Span] = []
        self._notes: dict[str, str] = {}

    def add(self, progress: Progress) -> None:
        """Add one progress report."""
        if progress.phase in _INSIDE or progress.warning:
            return
        if progress.phase != self._phase:
            self._close()
            self._phase = progress.phase
        self._reach_back(progress.took_s)
        self._bytes = max(self._bytes, progress.bytes_total)

    def _reach_back(self, took_s: float) -> None:
        """Move the start of the phase back: a batch is reported only after all its processes."""
        began_s = self._clock() - self._zero - took_s if took_s else self._began_s
        if began_s >= self._began_s or not self._done:
            return
        last = self._done.pop()
        self._began_s = max(began_s, last.began_s)
        self._done.append(replace(last, ended_s=self._began_s))

    def explain(self, phase: str, note: str) -> None:
        """Add a note to the detail of a phase."""
        self._notes[phase] = note

    def end(self) -> tuple[Span, ...]:
        """Return the phases, without those that are too short to be seen."""
        self._close()
        return tuple(self._explained(span) for span in self._done if not self._is_fragment(span))

    def _is_fragment(self, span: Span) -> bool:
        """Whether a phase is only announced here and runs later."""
        again = any(other.phase == span.phase and other is not span for other in self._done)
        return again and span.seconds < _FRAGMENT_S

    def _explained(self, span: Span) -> Span:
        parts = filter(None, (span.detail, self._notes.get(span.phase)))
        return replace(span, detail=", ".join(parts))

    def _close(self) -> None:
        now = self._clock() - self._zero
        if self._phase and now - self._began_s >= _NOTICEABLE_S:
            detail = f"{self._bytes / (1 << 20):.1f} MiB" if self._bytes else ""
            self._done.append(Span(self._phase, self._began_s, now, detail))
        self._began_s, self._bytes = now, 0
