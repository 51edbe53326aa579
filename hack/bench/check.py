"""Compares the ratios of a new run with the committed ones; times depend on the machine."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from hack.bench.row import RATIO, Row

MARGIN = 0.2


def worse(old: Mapping[str, Row], new: Mapping[str, Row]) -> Iterator[str]:
    """Give each ratio that is more than the margin above the committed one."""
    for key, (was, now) in sorted(_ratios(old, new).items()):
        if now > was * (1 + MARGIN):
            yield f"{key}: {now:.3g}, committed {was:.3g}: {now / was - 1:.0%} worse"


def better(old: Mapping[str, Row], new: Mapping[str, Row]) -> Iterator[str]:
    """Give each ratio that is more than the margin below the committed one."""
    for key, (was, now) in sorted(_ratios(old, new).items()):
        if now < was * (1 - MARGIN):
            yield f"{key}: {now:.3g}, committed {was:.3g}: {1 - now / was:.0%} better"


def compared(old: Mapping[str, Row], new: Mapping[str, Row]) -> int:
    """Return how many ratios both have."""
    return len(_ratios(old, new))


def _ratios(old: Mapping[str, Row], new: Mapping[str, Row]) -> dict[str, tuple[float, float]]:
    found = {}
    for key, row in new.items():
        other = old.get(key)
        if (
            row.unit == RATIO
            and row.value is not None
            and other
            and other.value
            and not other.source
        ):
            found[key] = (other.value, row.value)
    return found
