"""Compare this version with another installation of it, by turns, in one containerd.

    python -m hack.bench.against /srv/earlier/.venv

It measures `ctr run --rm` of /bin/true, and the memory of the shims of idle containers: their PSS,
with the fork server. Nothing is written to docs/performance.json, of which the other is no part.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from hack.bench import inside
from hack.bench.ctr import Ctr
from hack.bench.effort import Effort
from hack.bench.memory import pss_kib, shims
from hack.bench.row import Row, Rows, ms
from hack.bench.shim_node import CRYO, node
from hack.bench.turns import by_turns, timed

EARLIER = "cryoearlier"
_LAUNCHER = "containerd-shim-cryo-v1"
_ROUNDS, _PODS = 41, 10
_HERE = Path(sys.prefix)


def main() -> int:
    """Measure, and print both."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=_Format)
    parser.add_argument("venv", type=Path, help="where the other version is installed")
    parser.add_argument("--runsc", type=Path, required=True, help="path of runsc")
    given = parser.parse_args()
    other = given.venv.resolve() / "bin" / _LAUNCHER
    with node(given.runsc.resolve()) as here:
        here.containerd.use({f"containerd-shim-{EARLIER}-v1": other})
        rows = inside.run(
            here.place.remote,
            here.containerd.folder,
            part,
            Effort(120.0),
            {**here.given, "earlier": str(given.venv.resolve())},
        )
    for name, row in rows.items():
        print(f"{name:28} {row.value} {row.unit} ({row.min} to {row.max}, n = {row.n})")
    return 0


class _Format(argparse.RawDescriptionHelpFormatter):
    """Keeps the lines of the description."""


class _Both(Ctr):
    """Calls ctr for either version."""

    def __init__(self, given: Mapping[str, Any]) -> None:
        super().__init__(given)
        self._how[EARLIER] = ["--runtime", f"io.containerd.{EARLIER}.v1"]


def part(given: Mapping[str, Any], effort: Effort) -> Rows:
    """Measure `ctr run --rm` by turns, and then the shims of idle containers."""
    ctr = _Both(given)
    numbers = iter(range(1_000_000))

    def run(runtime: str) -> float:
        name = f"{runtime}-{next(numbers)}"
        return timed(lambda: ctr.run(runtime, name, "true"))

    ways = {one: partial(run, one) for one in (EARLIER, CRYO)}
    found = by_turns(ways, effort.rounds(_ROUNDS, 0.5), warm_up=True)
    rows = {f"run.true.{one}": ms(spent) for one, spent in found.items()}
    pairs = [new / old for old, new in zip(found[EARLIER], found[CRYO], strict=True)]
    rows["run.true.ratio"] = _row(statistics.median(pairs), "ratio", pairs)
    for one in (EARLIER, CRYO):
        names = [f"{one}-pod-{number:02}" for number in range(_PODS)]
        for name in names:
            ctr.begin(one, name, "sleep", "1000")
        prefix = given["earlier"] if one == EARLIER else str(_HERE)
        each = sum(pss_kib(pid) for pid in shims(CRYO) if _runs(pid, prefix)) / 1024 / _PODS
        rows[f"memory.{_PODS}.{one}"] = _row(each, "MiB", [each])
        for name in names:
            ctr.end(name)
    return rows


def _runs(pid: int, prefix: str) -> bool:
    """Whether a process is a Python of an installation."""
    words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    return words[0].startswith(f"{prefix}/".encode())


def _row(value: float, unit: str, values: list[float]) -> Row:
    rounded = [round(one, 3) for one in (value, min(values), max(values))]
    return Row(value=rounded[0], unit=unit, min=rounded[1], max=rounded[2], n=len(values))


if __name__ == "__main__":
    from hack.bench import against  # noqa: PLW0406 - a part is run by the name of its module

    sys.exit(against.main())
