"""A row of the results: the median of samples with its spread, or why there is none."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

import msgspec

# Ratios are compared with the committed ones, other units depend on the machine.
RATIO = "ratio"
_DIGITS = 4


class Row(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """A figure; `source` names where it was measured if not by this suite, `note` explains it."""

    value: float | None = None
    unit: str = ""
    min: float | None = None
    max: float | None = None
    n: int = 0
    source: str = ""
    note: str = ""


Rows = dict[str, Row]


def row(samples: Sequence[float], unit: str, note: str = "") -> Row:
    """Return the row of some samples.

    Raises:
        ValueError: there is no sample.
    """
    if not samples:
        message = "a row needs a sample"
        raise ValueError(message)
    return Row(
        value=_rounded(statistics.median(samples)),
        unit=unit,
        min=_rounded(min(samples)),
        max=_rounded(max(samples)),
        n=len(samples),
        note=note,
    )


def ms(seconds: Sequence[float], note: str = "") -> Row:
    """Return the row of some durations, in milliseconds."""
    return row([each * 1000 for each in seconds], "ms", note)


def ratio(ours: Sequence[float], base: Sequence[float], note: str = "") -> Row:
    """Return the row of the ratios of the rounds, each of which has both; less is better."""
    pairs = zip(ours, base, strict=True)
    return row([one / other for one, other in pairs], RATIO, note)


def added(ours: Sequence[float], base: Sequence[float], note: str = "") -> Row:
    """Return the row of what is added in each round, in milliseconds."""
    return ms([one - other for one, other in zip(ours, base, strict=True)], note)


def missing(unit: str, why: str) -> Row:
    """Return the row of what cannot be measured here."""
    return Row(unit=unit, note=why)


def _rounded(value: float) -> float:
    """Round to some significant digits."""
    return float(f"{value:.{_DIGITS}g}")
