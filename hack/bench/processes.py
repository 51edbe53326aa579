"""GPU processes: each engine beside the way without this project, a command after another.

That way is what a script does: find the processes by their open devices with `runsc exec`, run
`cuda-checkpoint --toggle` in the container for one after another, save, and toggle them again. It
must keep their pids: a frozen process has no device open, so a second look would not find it. All
act on the same task of the simulated GPU. Its `cuda-checkpoint` is a Python program, and so starts
slower than a C program; NVIDIA's starts the driver. The row `native` therefore has the same way
with the C program `cryo-cuda` in its place, the least that a program for each process can cost. No
call asks the simulated GPU whether it is to fail, which takes longer than the call, and which no
driver does.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from hack.bench import machine
from hack.bench.effort import Effort
from hack.bench.inside import Given
from hack.bench.machine import TASK, Machine
from hack.bench.row import Rows, ms, ratio, row
from hack.bench.turns import Samples, by_turns
from shim.model import CheckpointOptions, EngineName
from shim.selftest.guest import TaskGuest
from shim.simgpu.guest import names
from shim.simgpu.questions import Questions
from shim.simgpu.simulation import Settings, Simulation

COUNTS = (1, 2, 4, 8, 16)
ROUNDS = 5
_HELPER = "/dev/cryo/cryo-cuda"
# lsof under gVisor sometimes lists every process.
_FIND = "find /proc/[0-9]*/fd -lname '/dev/nvidia*' 2>/dev/null | cut -d/ -f3 | sort -un"
# What is done before and after the save; in `preflight` the processes are looked for.
_STEPS = ("preflight", "freeze", "thaw")


def measure(runsc: Path, effort: Effort) -> Rows:
    """Measure each number of processes."""
    rows: Rows = {}
    with Simulation(runsc, capacity_bytes=8 << 30) as sim:
        for count in COUNTS:
            _without_faults(sim.bundle(f"gpu-{count}", Settings(processes=count, period_s=0.2)))
        machine.start(sim)
        for count in COUNTS:
            rows |= machine.measure(sim, part, effort, count=count)
    return rows


def _without_faults(bundle: Path) -> None:
    """Let the tools of a container ask for no fault."""
    config = bundle / "config.json"
    spec = json.loads(config.read_text("utf-8"))
    spec["process"]["env"].append(f"{names.FAULTS}=none")
    config.write_text(json.dumps(spec), "utf-8")


def part(given: Given, effort: Effort) -> Rows:
    """Measure one number of processes."""
    here, count = Machine(given), given["count"]
    with here.task(f"gpu-{count}"):
        Questions().until_ready(TaskGuest(here.client, here.folder), TASK)
        script, found = Script(here, names.TOOL, count), Engines(here)
        native = Script(here, _HELPER, count)
        ways: dict[str, Callable[[], float]] = {
            "script": script.save,
            "native": native.save,
            **{name: partial(found.save, EngineName(name)) for name in found.names},
        }
        whole = by_turns(ways, effort.rounds(ROUNDS, count / sum(COUNTS)), warm_up=True)
    return rows_of(count, whole, script, native, found)


class Script:
    """The way of a script: `runsc exec` for the look, and for each process before and after."""

    def __init__(self, here: Machine, tool: str, count: int) -> None:
        self._here = here
        self._tool = tool
        self._count = count
        self.moves: list[float] = []

    def save(self) -> float:
        """Save the task; return how long all of it takes."""
        path = self._here.image()
        began = time.perf_counter()
        pids = self._find()
        self._toggle(pids)
        frozen = time.perf_counter()
        self._here.save_plain(path, leave_running=True)
        saved = time.perf_counter()
        self._toggle(pids)
        ended = time.perf_counter()
        self.moves.append(frozen - began + ended - saved)
        return ended - began

    def _find(self) -> list[str]:
        pids = self._here.exec(_FIND).split()
        if len(pids) != self._count:
            message = f"{_FIND}: found {pids}, not {self._count} processes"
            raise RuntimeError(message)
        return pids

    def _toggle(self, pids: list[str]) -> None:
        for pid in pids:
            self._here.exec(f"{self._tool} --toggle --pid {pid}")


class Engines:
    """Our engines; `moves` has what they spend on the look, the freeze and the thaw."""

    def __init__(self, here: Machine) -> None:
        self._here = here
        self.names = here.client.info()["engines"].split(", ")
        self.moves: Samples = {name: [] for name in self.names}

    def save(self, engine: EngineName) -> float:
        """Make a checkpoint; return how long all of it takes."""
        options = CheckpointOptions(image_path=str(self._here.image()), engine=engine)
        began = time.perf_counter()
        result = self._here.client.checkpoint(TASK, options)
        spent = time.perf_counter() - began
        steps = result.timings_s
        self.moves[engine].append(sum(steps.get(name, 0.0) for name in _STEPS))
        return spent


def rows_of(count: int, whole: Samples, script: Script, native: Script, engines: Engines) -> Rows:
    """Return the rows of one number of processes; the first round of the moves does not count."""
    key = f"processes.{count}"
    slow, fast = script.moves[1:], native.moves[1:]
    rows = {f"{key}.{name}": ms(found) for name, found in whole.items()}
    phased = engines.moves["phased"][1:]
    return rows | {
        f"moves.{count}.script": ms(slow),
        f"moves.{count}.native": ms(fast),
        f"moves.{count}.phased": ms(phased),
        f"moves.{count}.ratio": ratio(phased, slow),
        f"moves.{count}.native-ratio": ratio(phased, fast),
        f"moves.{count}.speedup": row([b / a for a, b in zip(phased, slow, strict=True)], "times"),
        **{f"{key}.{name}-ratio": ratio(whole[name], whole["script"]) for name in engines.names},
    }
