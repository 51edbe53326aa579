"""Progress on a terminal, redrawn in place: a line for each phase, and for each process."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, TextIO

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from shim.host.sizes import size
from shim.host.text import printable
from shim.model import Phase, Progress

if TYPE_CHECKING:
    from rich.console import RenderableType

_REDRAWS_PER_S = 10
_BAR_COLUMNS = 24
# So many processes have a line; of more, those that moved last.
_PROCESSES = 16
_RATE_AFTER_S = 0.1
_DONE, _FAILED = ("✓", "green"), ("✗", "red")
_PLAIN_MARKS = {"✓": "+", "✗": "x"}


class _Step:
    """What is known of a phase; it is left and taken up again by moves of single processes."""

    def __init__(self, phase: Phase) -> None:
        self.phase = phase
        self.spent_s = 0.0
        self.bytes_done = 0
        self.bytes_total = 0
        self.message = ""


class LiveProgress:
    """The phases of an operation and the processes that it moves, as they are now.

    The last frame stays. What must not be lost, warnings and the rollback, is printed above.
    """

    def __init__(self, out: TextIO) -> None:
        self._console = Console(file=out, highlight=False, markup=False, emoji=False)
        self._unicode = self._console.encoding.lower().startswith("utf")
        self._steps: dict[Phase, _Step] = {}
        self._current: _Step | None = None
        self._failed: _Step | None = None
        # When the current phase began, by this clock, and by that of the operation.
        self._since = time.monotonic()
        self._since_s = 0.0
        self._processes: dict[tuple[str, int], str] = {}
        self._ended = False
        self._spinner = Spinner("dots" if self._unicode else "line")
        self._live = Live(
            console=self._console,
            refresh_per_second=_REDRAWS_PER_S,
            get_renderable=self._frame,
            redirect_stdout=False,
            redirect_stderr=False,
        )
        self._live.start()

    def __call__(self, progress: Progress) -> None:
        """Take in one update; the frame is drawn by time, not for each."""
        if progress.warning or progress.phase is Phase.ROLLBACK:
            self._console.print(Text(_line(progress)), soft_wrap=True)
        self._enter(progress.phase, progress.elapsed_s)
        step = self._steps[progress.phase]
        if progress.bytes_done:
            step.bytes_done, step.bytes_total = progress.bytes_done, progress.bytes_total
        if progress.pid and progress.pid_state:
            self._move(progress)
        elif not progress.warning and progress.phase is not Phase.ROLLBACK:
            step.message = printable(progress.message)

    def close(self, *, failed: bool) -> None:
        """Draw the last frame."""
        if self._current is not None:
            self._current.spent_s += time.monotonic() - self._since
        if failed and self._failed is None:
            self._failed = self._current
        self._ended = True
        self._live.stop()

    def _enter(self, phase: Phase, elapsed_s: float) -> None:
        before, now = self._current, time.monotonic()
        if before is not None and before.phase is phase:
            return
        if before is not None:
            # Updates wait while this program loads, so the time of the operation is better.
            spent_s = elapsed_s - self._since_s
            before.spent_s += spent_s if elapsed_s else now - self._since
            if phase is Phase.ROLLBACK:
                self._failed = before
        # A new dictionary: the thread that draws reads the old one.
        self._steps = self._steps if phase in self._steps else {**self._steps, phase: _Step(phase)}
        self._current, self._since, self._since_s = self._steps[phase], now, elapsed_s

    def _move(self, progress: Progress) -> None:
        took = f"{progress.took_s:.2f} s" if progress.took_s else ""
        key = (progress.container, progress.pid)
        others = {one: text for one, text in self._processes.items() if one != key}
        self._processes = {**others, key: f"{printable(progress.pid_state):<14}{took}".rstrip()}

    # -- drawing ---------------------------------------------------------------------------------

    def _frame(self) -> RenderableType:
        table = Table.grid(padding=(0, 1))
        table.add_column(width=1)
        table.add_column(no_wrap=True, min_width=9)
        table.add_column(no_wrap=True, justify="right", min_width=8)
        table.add_column(no_wrap=True, overflow="ellipsis")
        for step in self._steps.values():
            now_s = time.monotonic() - self._since if self._is_running(step) else 0.0
            spent = Text(f"{step.spent_s + now_s:.2f} s", style="cyan")
            detail = _detail(step, now_s) if self._is_running(step) else _result(step)
            table.add_row(self._mark(step), str(step.phase), spent, detail)
        return Group(table, *self._process_lines())

    def _is_running(self, step: _Step) -> bool:
        return step is self._current and not self._ended

    def _mark(self, step: _Step) -> RenderableType:
        if self._is_running(step):
            return self._spinner
        mark, style = _FAILED if step is self._failed else _DONE
        return Text(mark if self._unicode else _PLAIN_MARKS[mark], style=style)

    def _process_lines(self) -> Iterator[Text]:
        found = self._processes
        shown = sorted(list(found)[-_PROCESSES:])
        for container, pid in shown:
            where = f" of {printable(container)}" if container else ""
            name = f"process {pid}{where}"
            yield Text(f"    {name:<18} {found[container, pid]}", no_wrap=True, overflow="ellipsis")
        if len(found) > len(shown):
            yield Text(f"    and {len(found) - len(shown)} more processes", style="dim")


def _detail(step: _Step, now_s: float) -> RenderableType:
    if not step.bytes_done:
        return Text(step.message, style="dim")
    rate = f"  {size(step.bytes_done / now_s)}/s" if now_s > _RATE_AFTER_S else ""
    if not step.bytes_total:
        return Text(f"{size(step.bytes_done)}{rate}")
    row = Table.grid(padding=(0, 1))
    bar = ProgressBar(total=step.bytes_total, completed=step.bytes_done, width=_BAR_COLUMNS)
    row.add_row(bar, Text(f"{size(step.bytes_done)} of {size(step.bytes_total)}{rate}"))
    return row


def _result(step: _Step) -> Text:
    """Return what is shown of a phase that is over: totals may have been estimates."""
    is_whole = step.bytes_done and step.bytes_done >= step.bytes_total
    return Text(size(step.bytes_done)) if is_whole else Text(step.message, style="dim")


def _line(progress: Progress) -> str:
    what = "warning: " if progress.warning else f"{progress.phase}: "
    return what + printable(progress.message)
