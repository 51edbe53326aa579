"""Several copies of an image at once: one call for clones, beside as many plain `runsc restore`.

The plain commands run all at once, which was the fastest of several concurrencies. Both alternate
on the same image, which is in the page cache.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from hack.bench import beat, machine
from hack.bench.beat import Beats
from hack.bench.effort import Effort
from hack.bench.inside import Given
from hack.bench.machine import TASK, Machine, reap
from hack.bench.row import Rows
from hack.bench.saves import pair
from hack.bench.turns import by_turns, timed
from shim.model import CheckpointOptions, CloneResult, RestoreOptions
from shim.simgpu.simulation import Simulation

COUNTS = (1, 4, 16)
ROUNDS = 5
MIB = 256
_BUNDLE = "filled"
_IDLE_S = 3600.0


def measure(runsc: Path, effort: Effort) -> Rows:
    """Measure each number of copies."""
    with Simulation(runsc) as sim:
        beat.bundle(sim, _BUNDLE, MIB, period_s=_IDLE_S)
        machine.start(sim)
        return machine.measure(sim, part, effort)


def part(given: Given, effort: Effort) -> Rows:
    """Save a container once, and restore it several times."""
    here, rows = Machine(given), Rows()
    image = here.image()
    with Beats(here.folder / "beats") as beats, here.task(_BUNDLE, stdout=beats.path):
        beats.next(0.0)
        here.client.checkpoint(TASK, CheckpointOptions(image_path=str(image)))
    for count in COUNTS:
        copies = Copies(here, image, count)
        rounds = effort.rounds(ROUNDS, count / sum(COUNTS))
        ways = {"plain": copies.plain, "ours": copies.clones}
        found = by_turns(ways, rounds, warm_up=True)
        rows |= pair(f"clones.{count}", found["ours"], found["plain"])
    return rows


class Copies:
    """Restores one image several times, by runsc alone or as clones, and removes the copies."""

    def __init__(self, here: Machine, image: Path, count: int) -> None:
        self._here = here
        self._image = image
        # No id may be the beginning of another: runsc takes it for that.
        self._names = [f"copy-{number:04}" for number in range(count)]

    def plain(self) -> float:
        """Return how long the plain commands take."""
        here, bundle = self._here, self._here.bundle(_BUNDLE)

        def restore(name: str) -> None:
            here.load_plain(bundle, self._image, name)

        with ThreadPoolExecutor(len(self._names)) as pool:
            spent = timed(lambda: list(pool.map(restore, self._names)))
        for name in self._names:
            here.plain("delete", "--force", name, root=here.plain_root)
        reap()
        return spent

    def clones(self) -> float:
        """Return how long the clones take."""
        wanted = {
            name: RestoreOptions(image_path=str(self._image), hostname=name) for name in self._names
        }
        spent = timed(lambda: _check(self._here.client.clone(wanted)))
        for name in self._names:
            self._here.end(name)
        return spent


def _check(results: Sequence[CloneResult]) -> None:
    failed = [one for one in results if one.restored is None]
    if failed:
        message = f"{len(failed)} clones failed: {failed[0]}"
        raise RuntimeError(message)
