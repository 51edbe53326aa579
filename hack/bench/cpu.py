"""CPU time of operations: of the sidecar and all that it starts, beside that of plain runsc.

The CPU time of every process of the machine is added up, before and after several operations of a
kind; of those that have ended it is in that of their parents. The sandbox is part of both.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from hack.bench import beat, machine
from hack.bench.beat import Beats
from hack.bench.effort import Effort
from hack.bench.inside import Given
from hack.bench.machine import TASK, Machine
from hack.bench.row import Rows, ms, ratio
from hack.bench.turns import by_turns
from shim.model import CheckpointOptions, RestoreOptions
from shim.simgpu.simulation import Simulation

ROUNDS = 5
# The kernel counts in hundredths of a second.
REPEATS = 8
MIB = 256
_BUNDLE = "filled"
_IDLE_S = 3600.0
_COPY = "again"
_TICKS = os.sysconf("SC_CLK_TCK")
_EXEC = {"args": ["/bin/true"], "cwd": "/", "env": ["PATH=/usr/bin:/bin"]}


def measure(runsc: Path, effort: Effort) -> Rows:
    """Measure with a task that does nothing."""
    with Simulation(runsc) as sim:
        beat.bundle(sim, _BUNDLE, MIB, period_s=_IDLE_S)
        machine.start(sim)
        return machine.measure(sim, part, effort)


def part(given: Given, effort: Effort) -> Rows:
    """Measure each operation by turns."""
    here, rows = Machine(given), Rows()
    meter = Meter()
    with Beats(here.folder / "beats") as beats, here.task(_BUNDLE, stdout=beats.path):
        beats.next(0.0)
        image = here.image("source")
        here.client.checkpoint(TASK, CheckpointOptions(image_path=str(image)))
        for name, (ours, plain) in Operations(here, image).pairs().items():
            ways = {
                "ours": lambda ours=ours: meter.over(ours),
                "plain": lambda plain=plain: meter.over(plain),
            }
            found = by_turns(ways, effort.rounds(ROUNDS, 0.25), warm_up=True)
            rows |= {
                f"cpu.{name}.plain": ms(found["plain"]),
                f"cpu.{name}.ours": ms(found["ours"]),
                f"cpu.{name}.ratio": ratio(found["ours"], found["plain"]),
            }
    return rows


class Operations:
    """The operations, ours and those of plain runsc."""

    def __init__(self, here: Machine, image: Path) -> None:
        self._here = here
        self._image = image
        self._number = 0

    def pairs(self) -> dict[str, tuple[Callable[[], None], Callable[[], None]]]:
        """Return our way and the plain one of each operation."""
        return {
            "checkpoint": (self._save, self._save_plain),
            "restore": (self._load, self._load_plain),
            "exec": (self._exec, self._exec_plain),
        }

    def _save(self) -> None:
        path = str(self._here.image())
        self._here.client.checkpoint(TASK, CheckpointOptions(image_path=path))

    def _save_plain(self) -> None:
        self._here.save_plain(self._here.image(), leave_running=True)

    def _load(self) -> None:
        self._here.client.restore(_COPY, RestoreOptions(image_path=str(self._image)))
        self._here.end(_COPY)

    def _load_plain(self) -> None:
        here = self._here
        here.load_plain(here.bundle(_BUNDLE), self._image, _COPY)
        here.remove_plain(_COPY)

    def _exec(self) -> None:
        self._number += 1
        name, client = f"exec-{self._number}", self._here.client
        client.exec(TASK, name, {**_EXEC, "user": {"uid": 0, "gid": 0}})
        client.start(TASK, name)
        client.wait(TASK, name)
        client.delete(TASK, name)

    def _exec_plain(self) -> None:
        self._here.exec("true")


class Meter:
    """Adds up the CPU time of all processes of the simulated machine."""

    def __init__(self) -> None:
        # The parent of this process is the parent of all others of the machine, too.
        self._top = os.getppid()

    def over(self, work: Callable[[], None]) -> float:
        """Return the CPU time of an operation, in seconds."""
        before = self._ticks()
        for _ in range(REPEATS):
            work()
        return (self._ticks() - before) / _TICKS / REPEATS

    def _ticks(self) -> int:
        children: dict[int, list[tuple[int, int]]] = {}
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                fields = (folder / "stat").read_text("ascii", "replace").rpartition(")")[2].split()
            except OSError:
                continue
            pid, spent = int(folder.name), sum(map(int, fields[11:15]))
            if pid == os.getpid():
                spent = sum(map(int, fields[13:15]))  # without our own
            children.setdefault(int(fields[1]), []).append((pid, spent))
        total, todo = 0, [self._top]
        while todo:
            for pid, spent in children.get(todo.pop(), []):
                total += spent
                todo.append(pid)
        return total
