"""Cold and warm starts, of containers or of pods, which alternate."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from hack.bench.conditions import available_mib
from hack.bench.effort import Effort
from hack.bench.row import Rows, missing, ratio, row
from hack.bench.turns import by_turns

# The memory of a container, its copies in the page cache and in the image.
SHARE_OF_MEMORY = 0.8
# How many at once, and how often, by MiB.
SIZES: Mapping[int, Mapping[int, int]] = {64: {1: 5, 10: 3}, 1024: {1: 3, 10: 1}}


class Starts(Protocol):
    """Starts something that fills its memory, cold or from an image."""

    def save(self, name: str, mib: int) -> None:
        """Start one until it is saved under a name, and end it."""

    def at_once(self, count: int, mib: int, name: str = "") -> float:
        """Start some at once, by a name from its image; return the seconds until all are ready."""


def fill(mib: int) -> str:
    """Return the script that fills this much memory with random bytes."""
    return f"dd if=/dev/urandom of=/memory bs=1M count={mib} 2>/dev/null"


def measured(case: str, starts: Starts, effort: Effort) -> Rows:
    """Return the rows of cold and warm starts, in seconds."""
    rows: Rows = {}
    for mib, counts in SIZES.items():
        name = f"filled-{mib}"
        starts.save(name, mib)
        for count, rounds in counts.items():
            key = f"{case}.{mib}-mib-{count}"
            if mib * count > available_mib() * SHARE_OF_MEMORY:
                rows[f"{key}.cold"] = missing("s", f"{available_mib()} MiB of memory are available")
                continue

            def cold(count: int = count, mib: int = mib) -> float:
                return starts.at_once(count, mib)

            def warm(count: int = count, mib: int = mib, name: str = name) -> float:
                return starts.at_once(count, mib, name)

            found = by_turns({"cold": cold, "warm": warm}, effort.rounds(rounds, 0.25))
            rows[f"{key}.cold"] = row(found["cold"], "s")
            rows[f"{key}.warm"] = row(found["warm"], "s")
            rows[f"{key}.ratio"] = ratio(found["warm"], found["cold"])
    return rows
