"""A task that is larger than what the kernel lets be dirty: saved through memory or to the disk.

The limit is lowered for the measurement, as it is reached on a small machine only so; the task
stands still at the speed of the disk then, unless it is saved into memory first.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import msgspec

from hack.bench import beat, dirty, machine, saves
from hack.bench.beat import Beats
from hack.bench.effort import Effort
from hack.bench.inside import Given
from hack.bench.machine import TASK, Machine
from hack.bench.row import Rows
from shim.model import CheckpointOptions
from shim.simgpu.simulation import Simulation

MIB = 2048
LIMIT_BYTES = 128 << 20
ROUNDS = 5
_BUNDLE = "beat"
_KINDS = ("stage-call", "stage", "stage-durable")


def measure(runsc: Path, effort: Effort) -> Rows:
    """Measure with a low limit of dirty memory."""
    with Simulation(runsc) as sim:
        beat.bundle(sim, _BUNDLE, MIB)
        machine.start(sim)
        with dirty.limited(LIMIT_BYTES):
            return machine.measure(sim, part, effort)


def part(given: Given, effort: Effort) -> Rows:
    """Save by turns with runsc alone and with the default options."""
    here = Machine(given)
    chosen: set[str] = set()

    def ours(path: Path) -> None:
        options = CheckpointOptions(image_path=str(path))
        chosen.add(here.client.checkpoint(TASK, options).stage)

    plain = partial(here.save_plain, leave_running=True)
    ways: dict[str, saves.Way] = {"plain": plain, "ours": ours}
    with Beats(here.folder / "beats") as beats, here.task(_BUNDLE, stdout=beats.path):
        beats.next()
        found = saves.save(here, beats, ways, effort.rounds(ROUNDS))
    rows = saves.rows(str(MIB), found["ours"], found["plain"], _KINDS)
    key = f"stage.{MIB}.ours"
    note = f"saved to {' and '.join(sorted(chosen))}"
    return {**rows, key: msgspec.structs.replace(rows[key], note=note)}
