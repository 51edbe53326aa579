"""A plot of rows as SVG: a curve for each column over the points of a case, with the spreads.

The lines are written by hand, as those of the soak runs are. Of the libraries, matplotlib brings 60
MB for this, and pygal puts its own style sheet and a script into each picture.
"""

from __future__ import annotations

import html
import math
from collections.abc import Iterator, Mapping, Sequence

import msgspec

from hack.bench.row import Row

_WIDTH, _HEIGHT, _LEFT, _TOP, _BOTTOM = 600, 300, 70, 40, 56
_COLORS = ("#57606a", "#1f6feb", "#d4641c", "#2da44e")
_TICKS = 5


class Plot(msgspec.Struct, frozen=True):
    """A plot: a case, some of its columns with their titles, and the titles of the axes."""

    case: str
    title: str
    x_title: str
    y_title: str
    columns: tuple[tuple[str, str], ...]


class Dot(msgspec.Struct, frozen=True):
    """A measured point, with its least and its largest sample."""

    x: float
    y: float
    least: float
    most: float


def dots(plot: Plot, column: str, rows: Mapping[str, Row]) -> list[Dot]:
    """Return the points of a column, from left to right."""
    found = []
    for key, row in rows.items():
        case, _, rest = key.partition(".")
        point, _, name = rest.partition(".")
        if (case, name) == (plot.case, column) and row.value is not None:
            least = row.value if row.min is None else row.min
            most = row.value if row.max is None else row.max
            found.append(Dot(float(point), row.value, least, most))
    return sorted(found, key=lambda dot: dot.x)


def svg(plot: Plot, rows: Mapping[str, Row]) -> str:
    """Return the picture; empty if there is nothing to show."""
    curves = {title: dots(plot, column, rows) for column, title in plot.columns}
    points = [dot for found in curves.values() for dot in found]
    if not points:
        return ""
    right, top = max(dot.x for dot in points), max(dot.most for dot in points)
    area = Area(right or 1.0, top or 1.0)
    whole = f"{_LEFT + _WIDTH + 20} {_TOP + _HEIGHT + _BOTTOM}"
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {whole}">',
        "<style>text { font: 12px sans-serif }</style>",
        '<rect width="100%" height="100%" fill="white"/>',
        f'<text x="{_LEFT}" y="16" font-size="14">{html.escape(plot.title)}</text>',
        *area.axes(plot, sorted({dot.x for dot in points})),
    ]
    for number, (title, found) in enumerate(curves.items()):
        lines += area.curve(title, found, _COLORS[number % len(_COLORS)], number)
    return "\n".join([*lines, "</svg>", ""])


class Area:
    """The area of a plot, which begins at 0 in both directions."""

    def __init__(self, right: float, top: float) -> None:
        self._step = nice(top / _TICKS)
        self._right = right
        self._top = math.ceil(top / self._step) * self._step

    def _at(self, x: float, y: float) -> tuple[float, float]:
        left = _LEFT + _WIDTH * x / self._right
        return left, _TOP + _HEIGHT * (1 - y / self._top)

    def axes(self, plot: Plot, points: Sequence[float]) -> Iterator[str]:
        """Draw both axes with their titles; the horizontal one is marked where was measured."""
        bottom = _TOP + _HEIGHT
        for number in range(round(self._top / self._step) + 1):
            value = number * self._step
            _, y = self._at(0, value)
            yield f'<path d="M{_LEFT} {y:.1f}H{_LEFT + _WIDTH}" stroke="#ddd"/>'
            yield f'<text x="{_LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{value:g}</text>'
        last = -math.inf
        for point in points:
            x, _ = self._at(point, 0)
            yield f'<path d="M{x:.1f} {bottom}v4" stroke="#999"/>'
            # Numbers of points that are close to each other would overlap.
            if x - last > 36:  # noqa: PLR2004  # the width of a number
                yield f'<text x="{x:.1f}" y="{bottom + 18}" text-anchor="middle">{point:g}</text>'
                last = x
        end, below = _LEFT + _WIDTH, bottom + 34
        yield f'<text x="{end}" y="{below}" text-anchor="end">{plot.x_title}</text>'
        yield f'<text x="{_LEFT - 6}" y="{_TOP - 10}" text-anchor="end">{plot.y_title}</text>'

    def curve(self, title: str, found: Sequence[Dot], color: str, number: int) -> Iterator[str]:
        """Draw a curve with its spreads, and its title below the plot."""
        at = [self._at(dot.x, dot.y) for dot in found]
        line = " ".join(f"{x:.1f},{y:.1f}" for x, y in at)
        yield f'<polyline points="{line}" fill="none" stroke="{color}" stroke-width="1.5"/>'
        for dot, (x, y) in zip(found, at, strict=True):
            (_, most), (_, least) = self._at(dot.x, dot.most), self._at(dot.x, dot.least)
            yield f'<path d="M{x:.1f} {most:.1f}V{least:.1f}" stroke="{color}" opacity="0.5"/>'
            yield f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{color}"/>'
        left, y = _LEFT + 150 * number, _TOP + _HEIGHT + 44
        yield f'<rect x="{left}" y="{y - 9}" width="10" height="10" fill="{color}"/>'
        yield f'<text x="{left + 16}" y="{y}">{html.escape(title)}</text>'


def nice(least: float) -> float:
    """Return the first of 1, 2 and 5 with a power of ten that is not less."""
    power = 10.0 ** math.floor(math.log10(least))
    return next(power * times for times in (1, 2, 5, 10) if power * times >= least * (1 - 1e-9))
