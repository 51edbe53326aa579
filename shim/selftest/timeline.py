"""The phases of a checkpoint or restore, as the owner of the task recorded them, for the report."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from shim.model import Phase, Timeline
from shim.selftest.outcome import Span
from shim.timeline.rows import inside, phases

_NOTICEABLE_S = 0.0005
_OF_IMAGE = frozenset({Phase.SAVE, Phase.SEAL})


def drawn(timeline: Timeline, notes: Mapping[str, str]) -> tuple[Span, ...]:
    """Return the phases, without those that are too short to be seen; `notes` are by phase."""
    found = []
    for phase, began_s, ended_s in _phases(timeline):
        if ended_s - began_s < _NOTICEABLE_S:
            continue
        moved = timeline.size_bytes if phase in _OF_IMAGE else 0
        parts = (f"{moved / (1 << 20):.1f} MiB" if moved else "", notes.get(phase, ""))
        found.append(Span(phase, began_s, ended_s, ", ".join(filter(None, parts))))
    return tuple(found)


def _phases(timeline: Timeline) -> Iterator[tuple[Phase, float, float]]:
    """Yield each phase with its begin and end; the locks within a freeze come before it."""
    for phase, parts in phases(timeline).items():
        began_s = parts[0].start_s
        ended_s = max(part.start_s + part.duration_s for part in parts)
        locks = [one for one in inside(timeline, parts) if one.pid and one.phase is Phase.LOCK]
        if phase is Phase.FREEZE and locks:
            locked_s = min(max(one.start_s + one.duration_s for one in locks), ended_s)
            yield Phase.LOCK, began_s, locked_s
            began_s = locked_s
        yield phase, began_s, ended_s
