"""Bars of characters: where in an operation its parts were, on a line of a terminal."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import groupby

from shim.timeline.style import Style

PHASE = "36"  # cyan
PART = "2;36"


def cells(segments: Iterable[tuple[float, float]], total_s: float, width: int) -> list[bool]:
    """Return which of `width` cells the segments, of start and duration, cover.

    A segment covers at least one cell, however short it is, and none is beyond the last one.
    """
    covered = [False] * width
    scale = width / total_s if total_s > 0 else 0.0
    for start_s, duration_s in segments:
        first = max(0, min(width - 1, int(start_s * scale)))
        length = max(1, min(width - first, round(duration_s * scale)))
        covered[first : first + length] = [True] * length
    return covered


def bar(
    segments: Iterable[tuple[float, float]],
    total_s: float,
    width: int,
    style: Style,
    color: str = PHASE,
) -> str:
    """Draw segments on a line of `width` columns."""
    glyph = "━" if style.unicode else "="
    drawn = []
    for covered, run in groupby(cells(segments, total_s, width)):
        count = len(list(run))
        drawn.append(style.paint(color, glyph * count) if covered else " " * count)
    return "".join(drawn)
