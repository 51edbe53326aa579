"""Causes failures on a real GPU on purpose, and compares all data at the end of each trial.

    python3 -m hack.gpu.trials --runsc /usr/local/bin/runsc
    python3 -m hack.gpu.trials --runsc ... --simulated       # only those that need no real GPU

Prints a line of JSON for each trial: what was observed, and whether it is as expected.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from hack.gpu import guests
from shim.client.blocking import Client
from shim.errors import CryoError, DeadlineExceeded, ResourceExhausted
from shim.model import CheckpointOptions, EngineName, Phase, Progress, RestoreOptions, Stdio
from shim.oci import document
from shim.selftest.guest import TaskGuest
from shim.simgpu.bundle import shares
from shim.simgpu.guest import names
from shim.simgpu.hardware import Hardware
from shim.simgpu.machine import Machine
from shim.simgpu.simulation import Fault, Kind, Settings, Simulation
from shim.simgpu.waiting import wait_until
from shim.state import TaskState

_READY_S = 120.0
_LOCK_S = 3.0
# The driver reports no progress while it copies a GiB; the simulated one is slowed down.
_INTO_FREEZE_S = 0.5
_SLOW_FREEZE_S = 3.0

Seen = dict[str, object]


class Stand:
    """A machine with a sidecar, and the operations that trials share."""

    def __init__(self, sim: Machine, client: Client, *, gpu_mib: int, real: bool) -> None:
        self.sim = sim
        self.client = client
        self.guest = TaskGuest(client, sim.folder)
        changing, weights = shares(gpu_mib << 20, real=real)
        self._settings = Settings(
            processes=2,
            period_s=0.01,
            resident_mib=16,
            real=real,
            device_bytes=changing,
            weights_bytes=weights,
        )
        self.gpu_mib = gpu_mib

    def bundle(self, name: str, script: str = "", **annotations: str) -> Path:
        """Write the bundle of the workload, or of a script instead."""
        ours = {f"io.cryo.{key}": value for key, value in annotations.items()}
        bundle = self.sim.bundle(name, self._settings, annotations=ours)
        if script:
            path = bundle / document.CONFIG
            content = json.loads(path.read_text("utf-8"))
            text = script.replace("CODE", repr(names.CODE_DIR))
            content["process"]["args"][2:] = ["-c", text]
            path.write_text(json.dumps(content), "utf-8")
        return bundle

    def start(self, name: str, script: str = "", **annotations: str) -> Path:
        """Start a task and wait until it is ready."""
        bundle = self.bundle(name, script, **annotations)
        log = f"file://{self.log(name)}"
        self.client.create(name, str(bundle), stdio=Stdio(stdout=log, stderr=log))
        self.client.start(name)
        if script:
            self.until_said(name, "ready")
        else:
            self.sim.until_ready(self.guest, name, _READY_S)
        return bundle

    def log(self, name: str) -> Path:
        """Return the file of a task's output."""
        return self.sim.folder / f"{name}.log"

    def until_said(self, name: str, word: str) -> str:
        """Wait until a task has printed a line that begins with `word`; return it."""

        def said() -> list[str]:
            path = self.log(name)
            text = path.read_text("utf-8", "replace") if path.exists() else ""
            return [line for line in text.splitlines() if line.startswith(word)]

        wait_until(lambda: bool(said()), f"{word!r} from {name}: {self.log(name)}", _READY_S)
        return said()[0]

    def fine(self, name: str) -> bool:
        """Whether a task makes steps, and its memory is intact."""
        return self.sim.fine(self.guest, name, 30.0)

    def end(self, *tasks: str) -> None:
        """Kill and delete tasks."""
        for name in tasks:
            self.client.kill(name, 9)
            self.client.wait(name)
            self.client.delete(name)

    def checkpoint(self, name: str, image: str, report: Callable[[Progress], None] | None) -> Any:
        """Create an image with the phased engine."""
        path = str(self.sim.image(image))
        options = CheckpointOptions(image_path=path, engine=EngineName.PHASED)
        return self.client.checkpoint(name, options, report)

    def crash(self) -> None:
        """Kill the sidecar with SIGKILL, as in a crash, and start another."""
        self.sim.kill_sidecar()
        self.sim.start_sidecar(timeouts={"lock": _LOCK_S})

    @contextmanager
    def full(self, left_mib: int) -> Iterator[None]:
        """Let another process occupy all GPU memory except `left_mib`."""
        if isinstance(self.sim, Simulation):
            held = self.sim.held_bytes()
            spare = self.sim.capacity_bytes - held - (left_mib << 20)
            self.sim.limit(reserved_bytes=spare)
            yield
            self.sim.limit(reserved_bytes=0)
            return
        argv = [sys.executable, "-c", guests.HOG, str(left_mib)]
        with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as hog:
            if not hog.stdout or not hog.stdout.readline():
                message = "the GPU memory could not be allocated"
                raise ResourceExhausted(message)
            yield
            hog.communicate()


def sidecar_killed(stand: Stand) -> Seen:
    """Kill the sidecar while GPU memory is being copied: the next one rolls back."""
    stand.start("job")
    freezing = threading.Event()

    def on_progress(progress: Progress) -> None:
        if progress.phase in {Phase.LOCK, Phase.FREEZE}:
            freezing.set()

    failed: list[str] = []

    def attempt() -> None:
        try:
            stand.checkpoint("job", "broken", on_progress)
        except CryoError as error:
            failed.append(str(error))

    thread = threading.Thread(target=attempt)
    if isinstance(stand.sim, Simulation):
        stand.sim.faults(Fault(action="checkpoint", kind=Kind.SLOW, seconds=_SLOW_FREEZE_S))
    thread.start()
    freezing.wait(30.0)
    time.sleep(_INTO_FREEZE_S)
    stand.crash()
    thread.join()
    if isinstance(stand.sim, Simulation):
        stand.sim.faults()
    [view] = [view for view in stand.client.list() if view.id == "job"]
    fine = stand.fine("job")
    stand.checkpoint("job", "whole", None)
    stand.end("job")
    result = {"call": failed, "state": view.state, "warning": view.warning, "fine": fine}
    return {**result, "ok": bool(failed) and fine and view.state is TaskState.RUNNING}


def copies(stand: Stand) -> Seen:
    """Restore three copies of an image in parallel, while the original runs."""
    bundle = stand.start("job")
    image = stand.checkpoint("job", "seed", None).image_path
    options = RestoreOptions(image_path=image, bundle=str(bundle))
    tasks = [f"copy-{number}" for number in range(3)]
    began = time.monotonic()
    with ThreadPoolExecutor() as pool:
        list(pool.map(lambda name: stand.client.restore(name, options, None), tasks))
    seconds = round(time.monotonic() - began, 2)
    fine = {name: stand.fine(name) for name in ("job", *tasks)}
    stand.end("job", *tasks)
    return {"seconds": seconds, "fine": fine, "ok": all(fine.values())}


def full_gpu(stand: Stand) -> Seen:
    """Resume a parked task while its GPU memory is occupied: it fails, and works later."""
    stand.start("job", park="true")
    stand.client.pause("job")
    refusal = ""
    with stand.full(stand.gpu_mib):
        try:
            stand.client.resume("job")
        except ResourceExhausted as error:
            refusal = str(error)
        state = stand.client.state("job").state
    stand.client.resume("job")
    fine = stand.fine("job")
    stand.end("job")
    ok = bool(refusal) and state is TaskState.PAUSED and fine
    return {"refusal": refusal, "state": state, "fine": fine, "ok": ok}


def endless_kernel(stand: Stand) -> Seen:
    """Lock a process whose kernel does not end: the lock times out, and the task continues."""
    stand.start("job", guests.SPIN)
    refusal, began = "", time.monotonic()
    try:
        stand.checkpoint("job", "spin", None)
    except DeadlineExceeded as error:
        refusal = str(error)
    seconds = round(time.monotonic() - began, 2)
    said = _release(stand)
    stand.end("job")
    ok = bool(refusal) and said == "wrong 0"
    return {"refusal": refusal, "seconds": seconds, "said": said, "ok": ok}


def managed_memory(stand: Stand) -> Seen:
    """Save managed memory: it succeeds or fails, and the memory is intact afterwards."""
    stand.start("job", guests.MANAGED)
    outcome = "saved"
    try:
        stand.checkpoint("job", "managed", None)
    except CryoError as error:
        outcome = str(error)
    state = stand.client.state("job").state
    said = _release(stand)
    stand.end("job")
    return {"outcome": outcome, "state": state, "said": said, "ok": said == "wrong 0"}


def _release(stand: Stand) -> str:
    stand.guest.exec("job", ["/usr/bin/touch", "/tmp/stop"])  # noqa: S108  # the guest's own
    return stand.until_said("job", "wrong")


Trial = Callable[[Stand], Seen]
ANYWHERE: tuple[Trial, ...] = (copies, sidecar_killed, full_gpu)
REAL: tuple[Trial, ...] = (endless_kernel, managed_memory)


def try_one(trial: Trial, make: Callable[[ExitStack], Stand]) -> bool:
    """Run one trial on a new machine, and print the result."""
    began = time.monotonic()
    log = ""
    with ExitStack() as stack:
        stand = make(stack)
        try:
            seen = trial(stand)
        except CryoError as error:
            seen = {"ok": False, "error": str(error)}
        if not seen["ok"]:
            log = stand.sim.sidecar_log.read_text("utf-8", "replace")[-3000:]
    took = round(time.monotonic() - began, 1)
    print(json.dumps({"trial": trial.__name__, **seen, "took_s": took, "log": log}), flush=True)
    return bool(seen["ok"])


def main() -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(prog="python3 -m hack.gpu.trials")
    parser.add_argument("--runsc", type=Path, required=True)
    parser.add_argument("--simulated", action="store_true", help="use a simulated GPU")
    parser.add_argument(
        "--gpu-mib", type=int, default=4, help="GPU memory of each of two processes"
    )
    parser.add_argument("--only", default="", help="names of trials, separated by commas")
    given = parser.parse_args()

    def make(stack: ExitStack) -> Stand:
        real = not given.simulated
        sim: Machine = Hardware(given.runsc) if real else Simulation(given.runsc)
        stack.enter_context(sim)
        sim.start_sidecar(timeouts={"lock": _LOCK_S})
        client = stack.enter_context(Client(sim.address, "trials"))
        return Stand(sim, client, gpu_mib=given.gpu_mib, real=real)

    trials = ANYWHERE if given.simulated else ANYWHERE + REAL
    chosen = [t for t in trials if not given.only or t.__name__ in given.only.split(",")]
    fine = [try_one(trial, make) for trial in chosen]
    return 0 if all(fine) else 1


if __name__ == "__main__":
    raise SystemExit(main())
