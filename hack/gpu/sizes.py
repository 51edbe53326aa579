"""Checkpoints, parks and restores one GPU process in every way, for a size of GPU memory.

    python3 -m hack.gpu.sizes --runsc /usr/local/bin/runsc --mib 16384 --huge-pages on
    python3 -m hack.gpu.sizes --runsc ... --mib 64 --simulated

Prints a line of JSON for each operation: what was chosen, what came of it, and the timeline of
`cryo timeline`, with what the machine could do meanwhile. All memory is compared at the end. A size
for which the host has too little memory is left out, with its reason.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec

from shim.client.blocking import Client
from shim.errors import CryoError
from shim.model import CheckpointOptions, Direct, EngineName, RestoreOptions, Stage
from shim.selftest.guest import TaskGuest
from shim.simgpu.bundle import shares
from shim.simgpu.hardware import Hardware
from shim.simgpu.machine import Machine
from shim.simgpu.simulation import Settings, Simulation

_TASK, _COPY = "job", "copy"
_READY_S = 600.0
_MIB = 1 << 20
# The GPU's memory, its copy in the sandbox, and a staged image in memory.
_TIMES = 3
_THP = Path("/sys/kernel/mm/transparent_hugepage")
_HUGE = {"on": {"shmem_enabled": "advise", "defrag": "never"}, "off": {"shmem_enabled": "never"}}
_DROP = Path("/proc/sys/vm/drop_caches")


class Sweep:
    """The operations on one workload, and the line that each prints."""

    def __init__(self, machine: Machine, client: Client, given: argparse.Namespace) -> None:
        """Start the workload."""
        self._machine = machine
        self._client = client
        self._head = {"mib": given.mib, "huge_pages": given.huge_pages}
        self._guest = TaskGuest(client, machine.folder)
        self.fine = True
        changing, weights = shares(given.mib << 20, real=not given.simulated)
        settings = Settings(
            period_s=0.1, real=not given.simulated, device_bytes=changing, weights_bytes=weights
        )
        parks = {"io.cryo.park": "true"}
        self._bundle = machine.bundle(_TASK, settings, annotations=parks)
        client.create(_TASK, str(self._bundle))
        client.start(_TASK)
        machine.until_ready(self._guest, _TASK, _READY_S)

    def run(self) -> None:
        """Do all of it."""
        image = ""
        for engine in (EngineName.PHASED, EngineName.BUILTIN):
            for stage in (Stage.MEMORY, Stage.DISK):
                path = str(self._machine.image(f"{engine}-{stage}"))
                options = CheckpointOptions(image_path=path, engine=engine, stage=stage)
                saved = self._try(
                    {"what": "checkpoint", "engine": engine, "stage": stage},
                    lambda options=options: self._client.checkpoint(_TASK, options),  # type: ignore[misc]
                )
                if saved:
                    self._remove(image)
                    image = path
        self._try({"what": "park"}, lambda: self._client.pause(_TASK))
        self._try({"what": "unpark"}, lambda: self._client.resume(_TASK))
        self._check(_TASK)
        # The GPU may have no room for both.
        self._end(_TASK)
        for cold in (False, True):
            for direct in (Direct.OFF, Direct.ON, Direct.AUTO):
                self._restore(image, direct, cold=cold)

    def _restore(self, image: str, direct: Direct, *, cold: bool) -> None:
        if not image:
            return
        if cold:
            os.sync()
            _DROP.write_text("3", "ascii")
        options = RestoreOptions(image_path=image, direct=direct)
        what = {"what": "restore", "direct": direct, "cold": cold}
        if self._try(what, lambda: self._client.restore(_COPY, options), task=_COPY):
            self._check(_COPY)
            self._end(_COPY)

    def _try(self, what: dict[str, Any], work: Callable[[], object], task: str = _TASK) -> bool:
        """Do one thing, and print what came of it; return whether it succeeded."""
        line: dict[str, Any] = {**self._head, **what}
        try:
            result = work()
        except CryoError as error:
            print(json.dumps({**line, "error": str(error)}), flush=True)
            self.fine = False
            return False
        timeline = self._client.timelines(task)[-1]
        speeds = self._client.speeds(timeline.image_path)
        more = {"result": result, "timeline": timeline, "speeds": speeds}
        print(json.dumps(msgspec.to_builtins({**line, **more})), flush=True)
        return True

    def _check(self, task: str) -> None:
        """Compare all memory of a task."""
        fine = self._machine.fine(self._guest, task, 60.0)
        self.fine = self.fine and fine
        print(json.dumps({**self._head, "what": "compare", "task": task, "fine": fine}), flush=True)

    def _remove(self, image: str) -> None:
        """Remove an earlier image: the disk may have no room for all."""
        if image:
            self._client.remove(image)

    def _end(self, task: str) -> None:
        self._client.kill(task, 9)
        self._client.wait(task)
        self._client.delete(task)


@contextlib.contextmanager
def huge_pages(choice: str) -> Iterator[None]:
    """Set huge pages for shared memory on this host, and put back what was set."""
    before = {}
    try:
        for name, value in _HUGE.get(choice, {}).items():
            text = (_THP / name).read_text("ascii")
            before[name] = text.partition("[")[2].partition("]")[0]
            (_THP / name).write_text(value, "ascii")
        yield
    finally:
        for name, value in before.items():
            (_THP / name).write_text(value, "ascii")


def missing(mib: int) -> str:
    """Return why a size cannot be tried here; empty if it can."""
    fields = dict(
        line.split(":", 1) for line in Path("/proc/meminfo").read_text("ascii").splitlines()
    )
    free_mib = int(fields["MemAvailable"].split()[0]) >> 10
    needed = mib * _TIMES
    return "" if free_mib >= needed else f"{free_mib} MiB of memory are free, {needed} are needed"


def main() -> int:
    """Run the command; 77 if the size cannot be tried here."""
    parser = argparse.ArgumentParser(prog="python3 -m hack.gpu.sizes")
    parser.add_argument("--runsc", type=Path, required=True)
    parser.add_argument("--mib", type=int, default=1024, help="GPU memory of the process")
    parser.add_argument("--huge-pages", choices=("on", "off", "as-is"), default="as-is")
    parser.add_argument("--simulated", action="store_true", help="use a simulated GPU")
    given = parser.parse_args()
    if why := missing(given.mib):
        print(json.dumps({"mib": given.mib, "skipped": why}))
        return 77
    room = 2 * given.mib * _MIB
    simulation = Simulation(given.runsc, capacity_bytes=room) if given.simulated else None
    with huge_pages(given.huge_pages), simulation or Hardware(given.runsc) as machine:
        machine.start_sidecar()
        with Client(machine.address, "sizes") as client:
            sweep = Sweep(machine, client, given)
            sweep.run()
    return 0 if sweep.fine else 1


if __name__ == "__main__":
    raise SystemExit(main())
