"""Progress on stderr: a line that is redrawn on a terminal, plain lines otherwise."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable
from types import TracebackType
from typing import Self, TextIO

from shim.host.sizes import size
from shim.host.text import printable
from shim.model import Phase, Progress

_BAR = 24
_REDRAW_S = 0.1
_CLEAR = "\r\x1b[K"


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

    def close(self) -> None:
        """Do nothing: all lines are complete."""


class Bar:
    """One line that is redrawn; warnings and the rollback are printed above it."""

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self._drawn_at = 0.0
        self._phase: Phase | None = None
        self._since = time.monotonic()

    def __call__(self, progress: Progress) -> None:
        """Draw the phase and its progress."""
        now = time.monotonic()
        if progress.phase is not self._phase:
            self._phase, self._since, self._drawn_at = progress.phase, now, 0.0
        if progress.warning or progress.phase is Phase.ROLLBACK:
            self._out.write(f"{_CLEAR}{_line(progress, _said(progress))}\n")
        elif now - self._drawn_at < _REDRAW_S:
            return
        self._drawn_at = now
        self._draw(progress, now - self._since)

    def _draw(self, progress: Progress, elapsed_s: float) -> None:
        text = f"{progress.phase:<9} {_moved(progress, elapsed_s) or _said(progress)}"
        import shutil

        width = shutil.get_terminal_size().columns - 1
        self._out.write(f"{_CLEAR}{text[:width]}")
        self._out.flush()

    def close(self) -> None:
        """Clear the line."""
        self._out.write(_CLEAR)
        self._out.flush()


class Renderer:
    """A context manager with a `Bar` or `Lines` on stderr; `warnings` have been shown."""

    def __init__(self) -> None:
        out = sys.stderr
        self._out: Bar | Lines = Bar(out) if out.isatty() else Lines(out)
        self.warnings: set[str] = set()

    def report(self, progress: Progress) -> None:
        """Show one progress update."""
        if progress.warning:
            self.warnings.add(progress.message)
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
        self._out.close()


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


def _moved(progress: Progress, elapsed_s: float) -> str:
    """Return bar, bytes and rate; empty before the first byte."""
    done, total = progress.bytes_done, progress.bytes_total
    if not done:
        return ""
    rate = f"{size(done / elapsed_s)}/s" if elapsed_s > _REDRAW_S else ""
    if not total:
        return f"{size(done)}  {rate}"
    full = min(_BAR, _BAR * done // total)
    return f"[{'#' * full}{'.' * (_BAR - full)}] {size(done)} of {size(total)}  {rate}"
