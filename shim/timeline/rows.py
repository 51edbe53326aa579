"""The rows of a timeline: its phases, and below each its commands and its processes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby

from shim.model import Phase, Span, Timeline

Segment = tuple[float, float]
# Rows below a phase: the longest are shown, the others are counted.
_BELOW = 8
# The end of a command is noted a little after that of the phase which it ends.
_LATE_S = 1e-3


@dataclass(frozen=True)
class Row:
    """A line of a timeline. `segments` are pairs of start and duration; `depth` is 0 for a phase.

    `seconds` is the time in which any of them was under way; `count` is how many there are.
    """

    label: str
    segments: tuple[Segment, ...]
    depth: int = 0
    count: int = 1

    @property
    def seconds(self) -> float:
        """The time in which any of the segments was under way."""
        return covered(self.segments)


def covered(segments: Iterable[Segment]) -> float:
    """Return how long at least one of the segments lasts."""
    total = end = 0.0
    for start, duration in sorted(segments):
        begin, stop = max(start, end), start + duration
        if stop > begin:
            total += stop - begin
        end = max(end, stop)
    return total


def segments(spans: Iterable[Span]) -> tuple[Segment, ...]:
    """Return when spans were."""
    return tuple((span.start_s, span.duration_s) for span in spans)


def rows(timeline: Timeline) -> list[Row]:
    """Return the rows, in the order in which they began; a phase that was repeated has one row."""
    found: list[Row] = []
    for phase, spans in phases(timeline).items():
        found.append(Row(phase, segments(spans)))
        within = inside(timeline, spans)
        commands = _grouped([span for span in within if span.name], phase)
        processes = _grouped([span for span in within if span.pid], phase)
        found += [*_longest(commands, "commands"), *_longest(processes, "processes")]
    return found


def phases(timeline: Timeline) -> dict[Phase, list[Span]]:
    """Return the spans of each phase, in the order in which the phases began."""
    found: dict[Phase, list[Span]] = {}
    for span in timeline.spans:
        if span.is_phase:
            found.setdefault(span.phase, []).append(span)
    return found


def inside(timeline: Timeline, spans: Sequence[Span]) -> list[Span]:
    """Return the commands and processes that ended within a phase."""
    ends = [(span.start_s, span.start_s + span.duration_s + _LATE_S) for span in spans]
    return [
        one
        for one in timeline.spans
        if not one.is_phase
        and any(begin <= one.start_s + one.duration_s <= end for begin, end in ends)
    ]


def _grouped(spans: list[Span], phase: Phase) -> list[Row]:
    """Make one row of each command, and one of each process, with its steps if not the phase."""

    def key(span: Span) -> tuple[str, str, int]:
        return span.name, span.container, span.pid

    made = []
    for (name, container, pid), group in groupby(sorted(spans, key=key), key):
        mine = sorted(group, key=lambda span: span.start_s)
        label = name or f"process {pid}" + (f" of {container}" if container else "")
        steps = list(dict.fromkeys(span.phase for span in mine))
        if not name and steps != [phase]:
            label += f" {', '.join(steps)}"
        made.append(Row(label, segments(mine), depth=1, count=len(mine) if name else 1))
    return sorted(made, key=lambda row: row.segments[0])


def _longest(made: list[Row], noun: str) -> list[Row]:
    """Keep the longest rows, and put the others into one."""
    if len(made) <= _BELOW:
        return made
    kept = sorted(made, key=lambda row: row.seconds, reverse=True)[: _BELOW - 1]
    others = [row for row in made if row not in kept]
    joined = tuple(segment for row in others for segment in row.segments)
    count = sum(row.count for row in others)
    rest = Row(f"{count} other {noun}", joined, depth=1)
    return [*(row for row in made if row in kept), rest]
