"""Progress on stderr: redrawn in place on a terminal, plain lines otherwise."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from types import TracebackType
from typing import TYPE_CHECKING, Self, TextIO

from shim.host.text import printable
from shim.model import Phase, Progress

if TYPE_CHECKING:
    from shim.entry.cli.live import LiveProgress

# Values of TERM.
_WITHOUT_MOVES = frozenset({"", "dumb", "unknown"})


class Lines:
    """One line for each phase, process and warning, without byte counts."""

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self._phase: Phase | None = None

    def __call__(self, progress: Progress) -> None:
        """Print a new phase, process or warning."""
        text = _said(progress)
        if text or progress.phase is not self._phase:
            self._phase = progress.phase
            print(_line(progress, text), file=self._out, flush=True)

    def close(self, *, failed: bool) -> None:
        """Do nothing: all lines are complete."""


class Renderer:
    """A context manager that shows progress on stderr; `warnings` have been shown.

    On a terminal it is redrawn in place, by rich, which is loaded with the first update: the
    operation has begun by then.
    """

    def __init__(self) -> None:
        self._out: LiveProgress | Lines | None = None
        self.warnings: set[str] = set()

    def report(self, progress: Progress) -> None:
        """Show one progress update."""
        if progress.warning:
            self.warnings.add(progress.message)
        if self._out is None:
            self._out = _output(sys.stderr)
        self._out(progress)

    def print_others(self, warnings: Iterable[str]) -> None:
        """Print the warnings of a result that no progress update had."""
        for warning in warnings:
            if warning not in self.warnings:
                print(printable(f"warning: {warning}"), file=sys.stderr)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._out is not None:
            self._out.close(failed=kind is not None)


def _output(out: TextIO) -> LiveProgress | Lines:
    """Return what suits a stream: lines for a file, and for a terminal without cursor moves."""
    if not out.isatty() or os.environ.get("TERM", "") in _WITHOUT_MOVES:
        return Lines(out)
    from shim.entry.cli.live import LiveProgress

    return LiveProgress(out)


def _line(progress: Progress, text: str) -> str:
    return f"[{progress.elapsed_s:7.2f}s] {progress.phase:<9} {text}".rstrip()


def _said(progress: Progress) -> str:
    return printable(_text(progress))


def _text(progress: Progress) -> str:
    if progress.warning:
        return f"warning: {progress.message}"
    if progress.pid and progress.pid_state:
        where = f" of {progress.container}" if progress.container else ""
        took = f" in {progress.took_s:.2f} s" if progress.took_s else ""
        return f"process {progress.pid}{where} {progress.pid_state}{took}"
    return progress.message
