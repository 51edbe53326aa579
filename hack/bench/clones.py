"""Compares the time of several clones of an image with that of as many plain `runsc restore`.

    python -m hack.bench.clones --count 16 --mib 256      # also part of make bench

"Clones" is the complete path of a user: one call of the client, the sidecar, runsc. "Plain" are the
runsc commands alone, at each of some concurrencies, of which the fastest counts. All alternate on
the same image, which is in the page cache.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import statistics
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from hack.bench.checkpoints import (
    SUBREAPER,
    TASK,
    Machine,
    fetched,
    header,
    measure_inside,
    reap,
    timed,
    turned,
)
from shim.model import CheckpointOptions, CloneResult, RestoreOptions
from shim.simgpu.guest.worker import Settings
from shim.simgpu.simulation import Simulation

# What the time of the clones may be, relative to that of the plain commands.
AIM = 1.1
IDLE_S = 3600.0
CORES = os.cpu_count() or 1


class Copies:
    """Restores one image several times, by runsc alone or as clones, and removes the copies."""

    def __init__(self, machine: Machine, bundle: Path, image: Path, count: int) -> None:
        self._machine = machine
        self._bundle = bundle
        self._image = image
        self._root = machine.folder / "plain"
        # No id may be the beginning of another: runsc takes it for that.
        self._names = [f"copy-{number:04}" for number in range(count)]

    def plain(self, at_once: int) -> float:
        """Return how long the plain commands take, so many at a time."""
        with ThreadPoolExecutor(at_once) as pool:
            spent = timed(lambda: list(pool.map(self._restore, self._names)))
        for name in self._names:
            self._machine.plain("delete", "--force", name, root=self._root)
        reap()
        return spent

    def _restore(self, name: str) -> None:
        where = (f"--bundle={self._bundle}", f"--image-path={self._image}")
        self._machine.plain("restore", "--detach", *where, name, root=self._root)

    def clones(self, at_once: int) -> float:
        """Return how long the clones take; 0 is the sidecar's number at a time."""
        client = self._machine.client
        wanted = {
            name: RestoreOptions(image_path=str(self._image), hostname=name) for name in self._names
        }
        spent = timed(lambda: self._check(client.clone(wanted, at_once=at_once)))
        for name in self._names:
            client.kill(name, 9, everyone=True)
            client.wait(name)
            client.delete(name)
        return spent

    def _check(self, results: Sequence[CloneResult]) -> None:
        failed = [one for one in results if one.restored is None]
        if failed:
            message = f"{len(failed)} clones failed: {failed[0]}"
            raise RuntimeError(message)


def inside(given: dict[str, str]) -> None:
    """Measure, and print the table; runs in the simulation's mount namespace."""
    ctypes.CDLL(None).prctl(SUBREAPER, 1, 0, 0, 0)
    machine, rounds, count = Machine(given), int(given["rounds"]), int(given["count"])
    image, bundle = machine.image(), machine.bundles / "filled"
    with machine.task("filled", settle_s=1.0 + int(given["mib"]) / 400):
        machine.client.checkpoint(TASK, CheckpointOptions(image_path=str(image)))
    copies = Copies(machine, bundle, image, count)
    numbers = json.loads(given["at_once"])
    ways = {
        **{f"runsc restore, {number} at once": partial(copies.plain, number) for number in numbers},
        "clones": partial(copies.clones, 0),
    }
    found: dict[str, list[float]] = {name: [] for name in ways}
    print(header(machine, rounds).replace("milliseconds", "seconds"))
    for number in range(rounds + 1):
        for name in turned(tuple(ways), number):
            found[name].append(ways[name]())
    print_table(f"{count} of {given['mib']} MiB", {k: v[1:] for k, v in found.items()})


def print_table(title: str, found: dict[str, list[float]]) -> None:
    """Print the medians, and the ratio of the clones and the fastest plain way."""
    medians = {name: statistics.median(spent) for name, spent in found.items()}
    fastest = min(value for name, value in medians.items() if name != "clones")
    print(f"{title:28} seconds   of the fastest plain")
    for name, value in medians.items():
        print(f"{name:28} {value:7.2f}   {value / fastest:8.2f}")
    ratios = [
        clones / min(spent)
        for clones, *spent in zip(
            found["clones"], *(v for k, v in found.items() if k != "clones"), strict=True
        )
    ]
    print(
        f"by round {min(ratios):.2f} to {max(ratios):.2f}, aim {AIM}; load {os.getloadavg()[0]:.1f}"
    )


def main() -> int:
    """Run the measurement."""
    parser = argparse.ArgumentParser(description="Compare clones with plain runsc restores.")
    parser.add_argument("--runsc", type=Path, help="path of runsc [default: from `make tools`]")
    parser.add_argument("--count", default=16, type=int)
    parser.add_argument("--mib", default=256, type=int)
    parser.add_argument("--rounds", default=5, type=int)
    parser.add_argument(
        "--at-once",
        type=int,
        nargs="+",
        help="how many plain commands run at a time [default: as many as cores, twice that, all]",
    )
    parser.add_argument("--inside", type=json.loads, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.inside:
        inside(given.inside)
        return 0
    runsc = given.runsc or fetched(parser)
    # The copies that run already leave the cores to the others.
    settings = Settings(gpu=False, resident_mib=given.mib, period_s=IDLE_S)
    with Simulation(runsc.resolve()) as sim:
        sim.bundle("filled", settings, inject_tool=False)
        sim.start_sidecar()
        numbers = {name: str(getattr(given, name)) for name in ("count", "mib", "rounds")}
        at_once = json.dumps(given.at_once or sorted({CORES, 2 * CORES, given.count}))
        return measure_inside(sim, "hack.bench.clones", at_once=at_once, **numbers)


if __name__ == "__main__":
    raise SystemExit(main())
