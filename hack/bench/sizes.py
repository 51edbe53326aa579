"""The same measurement of tasks of several sizes, in MiB, on one machine."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from hack.bench import beat, machine
from hack.bench.effort import Effort
from hack.bench.inside import Given
from hack.bench.row import Rows
from shim.simgpu.simulation import Simulation

# Rounds of each size. A restore of runsc scatters by 50 ms at 0 MiB and by 300 ms at 1 GiB, so
# that fewer cannot tell a difference of 10 ms.
ROUNDS: Mapping[int, int] = {0: 61, 256: 61, 1024: 41, 4096: 5}
_SHARES = {0: 0.17, 256: 0.2, 1024: 0.33, 4096: 0.3}


def measure(runsc: Path, part: Callable[[Given, Effort], Rows], effort: Effort) -> Rows:
    """Run a part for each size, which is given to it as `mib`; its bundle is `bundle(mib)`."""
    rows: Rows = {}
    with Simulation(runsc) as sim:
        for mib in ROUNDS:
            beat.bundle(sim, bundle(mib), mib)
        machine.start(sim)
        for mib in ROUNDS:
            rows |= machine.measure(sim, part, effort, mib=mib)
    return rows


def bundle(mib: int) -> str:
    """Return the name of the bundle of a task that beats."""
    return f"beat-{mib}"


def share(mib: int) -> float:
    """Return the share of the budget that a size has."""
    return _SHARES[mib]
