"""A timeline as SVG: the rows of the terminal as rectangles, without scripts or references."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from textwrap import wrap
from xml.sax.saxutils import escape

from shim.host.text import printable
from shim.model import Speeds, Timeline
from shim.timeline import terminal
from shim.timeline.bounds import bounds
from shim.timeline.rows import Row, rows
from shim.timeline.style import duration

_WIDTH = 960
_LABEL, _BAR = 210, 590
_LINE = 20
_MARGIN = 16
_TEXT_COLUMNS = 125
_LABEL_MAX = 26
_TICKS = 4
_STYLE = """
text { font: 13px system-ui, 'DejaVu Sans', sans-serif; fill: #1f2933; }
.head { font-weight: 600; font-size: 15px; }
.dim { fill: #66727f; }
.right { text-anchor: end; }
.phase { fill: #1b7f8c; }
.part { fill: #8fc7cd; }
.grid { stroke: #dde3e8; stroke-width: 1; }
.page { fill: #ffffff; }
@media (prefers-color-scheme: dark) {
  text { fill: #e4eaef; }
  .dim { fill: #9caab6; }
  .phase { fill: #3fa5b1; }
  .part { fill: #2a6a73; }
  .grid { stroke: #303b45; }
  .page { fill: #1b2229; }
}
"""


def svg(timelines: Sequence[Timeline], speeds: Speeds | None) -> str:
    """Draw operations below each other."""
    drawn: list[str] = []
    y = float(_MARGIN)
    for timeline in timelines:
        for text, height in _operation(timeline, speeds, y):
            drawn.append(text)
            y += height
        y += _LINE
    if speeds is not None:
        for text in wrap(terminal.machine(speeds), _TEXT_COLUMNS):
            y += _LINE
            drawn.append(_text(_MARGIN, y, text, "dim"))
        y += _LINE
    size = f'width="{_WIDTH}" height="{y:.0f}" viewBox="0 0 {_WIDTH} {y:.0f}"'
    names = "; ".join(terminal.title(one) for one in timelines)
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img">',
            f"<title>{_safe(names)}</title>",
            f"<style>{_STYLE}</style>",
            f'<rect class="page" width="{_WIDTH}" height="{y:.0f}"/>',
            *drawn,
            "</svg>\n",
        ]
    )


def _operation(
    timeline: Timeline, speeds: Speeds | None, top: float
) -> Iterator[tuple[str, float]]:
    """Yield the elements of one operation, each with the height that it adds."""
    y = top

    def line(text: str, kind: str = "") -> tuple[str, float]:
        nonlocal y
        y += _LINE
        return _text(_MARGIN, y, text, kind), _LINE

    yield line(terminal.title(timeline), "head")
    for detail in terminal.details(timeline):
        for text in wrap(detail, _TEXT_COLUMNS):
            yield line(text, "dim")
    found = rows(timeline)
    yield "", _LINE / 2
    y += _LINE / 2
    yield _axis(timeline.total_s, y, len(found)), _LINE
    y += _LINE
    for row in found:
        yield _row(row, timeline.total_s, y), _LINE
        y += _LINE
    y += _LINE / 2
    yield "", _LINE / 2
    for bound in bounds(timeline, speeds):
        first, *more = wrap(bound.text, _TEXT_COLUMNS - 20) or [""]
        y += _LINE
        yield f"{_text(_MARGIN, y, bound.phase)}{_text(_LABEL, y, first)}", _LINE
        for text in more:
            y += _LINE
            yield _text(_LABEL, y, text), _LINE
    for text in wrap(terminal.summary(timeline), _TEXT_COLUMNS):
        yield line(text)


def _axis(total_s: float, y: float, count: int) -> str:
    """Draw the times at the top of the bars, and lines down to the last one."""
    drawn = []
    bottom = y + (count + 1) * _LINE
    for tick in range(_TICKS + 1):
        x = _LABEL + _BAR * tick / _TICKS
        drawn.append(
            f'<line class="grid" x1="{x:.1f}" y1="{y + _LINE:.1f}" x2="{x:.1f}" y2="{bottom:.1f}"/>'
        )
        kind = "dim right" if tick == _TICKS else "dim"
        drawn.append(_text(x, y + _LINE - 5, duration(total_s * tick / _TICKS), kind))
    return "".join(drawn)


def _row(row: Row, total_s: float, y: float) -> str:
    label = row.label + (f" x{row.count}" if row.count > 1 else "")
    kind, height = ("part", _LINE - 10) if row.depth else ("phase", _LINE - 6)
    scale = _BAR / total_s if total_s else 0.0
    label = printable(label, _LABEL_MAX)
    drawn = [_text(_MARGIN + 14 * row.depth, y + _LINE - 5, label, "dim" if row.depth else "")]
    for start_s, duration_s in row.segments:
        x = min(start_s * scale, _BAR - 1.0)
        width = max(1.0, min(duration_s * scale, _BAR - x))
        hint = _safe(f"{row.label}: {duration(duration_s)} at {duration(start_s)}")
        drawn.append(
            f'<rect class="{kind}" x="{_LABEL + x:.2f}" y="{y + (_LINE - height) / 2:.1f}" '
            f'width="{width:.2f}" height="{height}" rx="1"><title>{hint}</title></rect>'
        )
    share = f", {row.seconds / total_s:.0%}" if total_s else ""
    right = f"{duration(row.seconds)}{share}"
    drawn.append(_text(_WIDTH - _MARGIN, y + _LINE - 5, right, "right"))
    return "".join(drawn)


def _text(x: float, y: float, text: str, kind: str = "") -> str:
    chosen = f' class="{kind}"' if kind else ""
    return f'<text{chosen} x="{x:.1f}" y="{y:.1f}">{_safe(text)}</text>'


def _safe(text: str) -> str:
    return escape(printable(text))
