"""Checkpoints that leave the task running, beside `runsc checkpoint --leave-running`.

"Ours" is the complete path of a user: client, unix socket, sidecar, runsc, digests and fsync. Both
save the same container in turns. It beats, so that the time that it stands still is seen beside the
time of the call; what is still in the page cache is then synced, which makes both equally durable.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

from hack.bench import saves, sizes
from hack.bench.beat import Beats
from hack.bench.effort import Effort
from hack.bench.inside import Given
from hack.bench.machine import TASK, Machine
from hack.bench.row import Rows
from shim.model import CheckpointOptions

_KINDS = ("checkpoint", "frozen", "durable")


def measure(runsc: Path, effort: Effort) -> Rows:
    """Measure each size of a task."""
    return sizes.measure(runsc, part, effort)


def part(given: Given, effort: Effort) -> Rows:
    """Measure one size."""
    here, mib = Machine(given), given["mib"]
    ways = {
        "plain": partial(here.save_plain, leave_running=True),
        "ours": partial(ours, here),
    }
    with Beats(here.folder / "beats") as beats, here.task(sizes.bundle(mib), stdout=beats.path):
        beats.next()
        found = saves.save(here, beats, ways, effort.rounds(sizes.ROUNDS[mib], sizes.share(mib)))
    return saves.rows(str(mib), found["ours"], found["plain"], _KINDS)


def ours(here: Machine, path: Path) -> None:
    """Make a checkpoint with the default options."""
    here.client.checkpoint(TASK, CheckpointOptions(image_path=str(path)))
