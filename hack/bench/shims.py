"""Our shim beside gVisor's own and runc's: `ctr run --rm`, and what each call adds to runsc.

`ctr run --rm` of /bin/true alternates between the three. For the calls the suite acts as containerd
does, and alternates with plain `runsc create` and `runsc delete` of the same bundle.
"""

from __future__ import annotations

import asyncio
from functools import partial
from pathlib import Path

from hack.bench import inside, shim_calls
from hack.bench.ctr import Ctr
from hack.bench.effort import Effort
from hack.bench.inside import Given
from hack.bench.row import Rows, ms, ratio
from hack.bench.shim_node import CRYO, GVISOR, RUNTIMES, node
from hack.bench.turns import Samples, by_turns, timed

ROUNDS = 21


def measure(runsc: Path, effort: Effort) -> Rows:
    """Start containerd, and measure in its namespace."""
    with node(runsc) as here:
        return inside.run(here.place.remote, here.containerd.folder, part, effort, here.given)


def part(given: Given, effort: Effort) -> Rows:
    """Measure `ctr run --rm`, and then the calls."""
    ctr = Ctr(given)
    numbers = iter(range(1_000_000))

    def run(runtime: str) -> float:
        name = f"{runtime}-{next(numbers)}"
        return timed(lambda: ctr.run(runtime, name, "true"))

    ways = {runtime: partial(run, runtime) for runtime in RUNTIMES}
    found = by_turns(ways, effort.rounds(ROUNDS, 0.5), warm_up=True)
    rows = {f"run.true.{runtime}": ms(spent) for runtime, spent in found.items()}
    rows["run.true.ratio"] = ratio(found[CRYO], found[GVISOR])
    return rows | calls(asyncio.run(shim_calls.measure(given, effort.rounds(ROUNDS, 0.5))))


def calls(found: dict[str, Samples]) -> Rows:
    """Return what each shim takes for its own processes, and adds to runsc's commands."""
    plain = found["plain"]
    rows: Rows = {}
    both: Samples = {}
    whole: Samples = {}
    for name in (CRYO, GVISOR):
        spans = found[name]
        both[name] = [sum(one) for one in zip(spans["start"], spans["delete"], strict=True)]
        for step in ("Create", "Delete"):
            spans[step] = [a - b for a, b in zip(spans[step], plain[step], strict=True)]
        steps = (spans[step] for step in shim_calls.STEPS)
        whole[name] = [sum(one) for one in zip(*steps, strict=True)]
        rows |= {
            f"shim.start.{name}": ms(spans["start"]),
            f"shim.delete.{name}": ms(spans["delete"]),
            f"shim.start-delete.{name}": ms(both[name]),
            f"added.create.{name}": ms(spans["Create"]),
            f"added.delete.{name}": ms(spans["Delete"]),
            f"added.all.{name}": ms(whole[name]),
        }
    rows["shim.start-delete.ratio"] = ratio(both[CRYO], both[GVISOR])
    rows["added.all.ratio"] = ratio(whole[CRYO], whole[GVISOR])
    return rows
