"""Restores and checkpoints with exit, beside the plain runsc commands, and the first instruction.

In each round and way an image is restored, the guest beats, and the container is saved again and
ends, so that a way leaves nothing to the next one. The image is in the page cache; what is saved is
synced. The first instruction is the first beat that the host sees. A restore in the background
returns before all memory is there. What is our own is the call of the client less the run of runsc
in it: that scatters by 2 ms where runsc scatters by 50.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from pathlib import Path

from hack.bench import sizes
from hack.bench.beat import Beats
from hack.bench.effort import Effort
from hack.bench.inside import Given
from hack.bench.machine import TASK, Machine
from hack.bench.row import Rows, ms
from hack.bench.saves import pair, sync
from hack.bench.turns import Samples, by_turns
from shim.model import CheckpointOptions, RestoreOptions, Stdio

# Below this size all memory is there at once anyway.
_BACKGROUND_MIB = 1024
_PLAIN = "again"
_COMMAND = "runsc restore"


def measure(runsc: Path, effort: Effort) -> Rows:
    """Measure each size of a task."""
    return sizes.measure(runsc, part, effort)


def part(given: Given, effort: Effort) -> Rows:
    """Measure one size."""
    here, mib = Machine(given), given["mib"]
    with Beats(here.folder / "beats") as beats:
        with here.task(sizes.bundle(mib), stdout=beats.path):
            beats.next()
            image = here.image()
            here.client.checkpoint(TASK, CheckpointOptions(image_path=str(image)))
        lives = Lives(here, beats, here.bundle(sizes.bundle(mib)), image)
        ways: dict[str, Callable[[], float]] = {
            "plain": lambda: lives.plain("plain"),
            "ours": lambda: lives.ours("ours"),
        }
        if mib >= _BACKGROUND_MIB:
            ways["plain-background"] = lambda: lives.plain("plain-background", "--background")
            ways["ours-background"] = lambda: lives.ours("ours-background", background=True)
        found = by_turns(ways, effort.rounds(sizes.ROUNDS[mib], sizes.share(mib)))
    return rows_of(mib, found, lives)


class Lives:
    """Restores the image, waits for the first beat, and saves the container with exit."""

    def __init__(self, here: Machine, beats: Beats, bundle: Path, image: Path) -> None:
        self._here = here
        self._beats = beats
        self._bundle = bundle
        self._image = image
        self.first: Samples = {}
        self.exits: Samples = {}
        self.own: list[float] = []

    def plain(self, way: str, *options: str) -> float:
        """Do it by runsc alone; return how long the restore takes."""
        here = self._here
        self._beats.clear()
        began = time.perf_counter()
        here.load_plain(self._bundle, self._image, _PLAIN, *options, stdout=self._beats.fd)
        spent = self._loaded(way, began)
        if not options:
            path = here.image("exit")
            began = time.perf_counter()
            here.save_plain(path, name=_PLAIN, root=here.plain_root)
            self._exited(way, began, path)
        here.remove_plain(_PLAIN)
        return spent

    def ours(self, way: str, *, background: bool = False) -> float:
        """Do it by the sidecar; return how long the restore takes."""
        client = self._here.client
        self._beats.clear()
        stdio = Stdio(stdout=str(self._beats.path))
        options = RestoreOptions(image_path=str(self._image), background=background, stdio=stdio)
        began = time.perf_counter()
        client.restore(TASK, options)
        spent = self._loaded(way, began)
        if background:
            self._here.end()
            return spent
        self.own.append(spent - self._runsc_s())
        path = self._here.image("exit")
        began = time.perf_counter()
        client.checkpoint(TASK, CheckpointOptions(image_path=str(path), exit=True))
        self._exited(way, began, path)
        client.delete(TASK)
        return spent

    def _runsc_s(self) -> float:
        """Return how long runsc ran in the last restore."""
        spans = self._here.client.timelines(TASK)[-1].spans
        (found,) = (span.duration_s for span in spans if span.name == _COMMAND)
        return found

    def _loaded(self, way: str, began: float) -> float:
        spent = time.perf_counter() - began
        self.first.setdefault(way, []).append(self._beats.next(began) - began)
        return spent

    def _exited(self, way: str, began: float, path: Path) -> None:
        sync(path)
        self.exits.setdefault(way, []).append(time.perf_counter() - began)
        shutil.rmtree(path)


def rows_of(mib: int, found: Samples, lives: Lives) -> Rows:
    """Return the rows of one size."""
    first, exits = lives.first, lives.exits
    rows = {
        **pair(f"restore.{mib}", found["ours"], found["plain"]),
        f"restore.{mib}.own": ms(lives.own),
        **pair(f"exit.{mib}", exits["ours"], exits["plain"]),
        **pair(f"first.{mib}", first["ours"], first["plain"]),
    }
    if "ours-background" in found:
        rows |= pair(f"first-background.{mib}", first["ours-background"], first["plain-background"])
        rows[f"restore.{mib}.plain-background"] = ms(found["plain-background"])
        rows[f"restore.{mib}.ours-background"] = ms(found["ours-background"])
    return rows
