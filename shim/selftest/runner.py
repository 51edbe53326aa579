"""The selftest: checkpoints, kills and restores a container with live GPU state, and compares it.

Each process is set to stop at a certain generation. The original reaches it after the checkpoint,
the restored copy from the saved state. Both must then hold the same bytes, which are also computed
from the known pattern.
"""

from __future__ import annotations

import contextlib
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from shim import config
from shim.client.blocking import Client
from shim.cuda import driver, inventory
from shim.cuda.inventory import Inventory
from shim.errors import CryoError, FailedPrecondition
from shim.model import CheckpointOptions, EngineName, Phase, Progress, RestoreOptions, Stdio
from shim.selftest import timeline
from shim.selftest.guest import TaskGuest
from shim.selftest.outcome import Outcome, Step, compare
from shim.simgpu import tools
from shim.simgpu.bundle import shares
from shim.simgpu.hardware import Hardware
from shim.simgpu.machine import Machine
from shim.simgpu.simulation import Settings, Simulation
from shim.simgpu.status import Status

NAMESPACE = "selftest"
_ORIGINAL = "original"
_RESTORED = "restored"
# At 100 steps a second this lasts longer than the checkpoint.
_STEPS = 120
_PERIOD_S = 0.01
_RESIDENT_MIB = 16
# Each process imports PyTorch, which reads gigabytes.
_READY_S = 240.0
_PARKS = {"io.cryo.park": "true"}
_LOG_TAIL = 4000
_REASON_MAX = 300


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What the selftest runs with."""

    runsc: Path
    engine: EngineName = EngineName.AUTO
    processes: int = 2
    real: bool = False
    rounds: int = 1
    gpu_mib: int = 1
    pytorch: bool = False
    helper: str = "auto"
    keep_image: Path | None = None


class Reporter(Protocol):
    """Prints what the selftest does; see `report`."""

    def begin(self, name: str, what: str) -> None:
        """Report that a step starts."""

    def progress(self, progress: Progress) -> None:
        """Report the progress of a checkpoint or restore."""

    def end(self, step: Step) -> None:
        """Report that a step is done."""

    def outcome(self, outcome: Outcome) -> None:
        """Report the result."""


class Runner:
    """Runs one selftest."""

    def __init__(self, plan: Plan, reporter: Reporter) -> None:
        self._plan = plan
        self._reporter = reporter
        self._zero = time.monotonic()
        self.outcome = Outcome(simulated=not plan.real)

    def run(self) -> Outcome:
        """Run it; an error is part of the outcome."""
        with contextlib.ExitStack() as stack:
            try:
                self._cycle(stack)
            except CryoError as error:
                self.outcome.error = str(error)
                self.outcome.remedy = error.remedy
        self._reporter.outcome(self.outcome)
        return self.outcome

    @contextlib.contextmanager
    def _step(self, name: str, what: str) -> Iterator[list[str]]:
        """Report a step with its duration; the texts added to the list become its detail."""
        self._reporter.begin(name, what)
        details: list[str] = []
        began = time.monotonic() - self._zero
        yield details
        self._done(Step(name, began, time.monotonic() - self._zero, " ".join(details)))

    def _done(self, step: Step) -> None:
        self.outcome.steps.append(step)
        self._reporter.end(step)

    def _cycle(self, stack: contextlib.ExitStack) -> None:
        sim = self._machine(stack)
        stack.callback(self._keep_log, sim)
        client = self._sidecar(stack, sim)
        guest = TaskGuest(client, sim.folder)
        bundle = self._container(sim, client, guest)
        name = _ORIGINAL
        for number in range(1, self._plan.rounds + 1):
            name = self._round(sim, client, guest, bundle, name, number)
        self._park(sim, client, guest, name)
        client.kill(name, signal.SIGKILL)
        client.wait(name)
        client.delete(name)

    def _round(
        self,
        sim: Machine,
        client: Client,
        guest: TaskGuest,
        bundle: Path,
        name: str,
        number: int,
    ) -> str:
        """Checkpoint, kill, restore and compare; return the name of the restored task."""
        last = number == self._plan.rounds
        kept = self._plan.keep_image if last else None
        image = str(kept or sim.image(f"selftest-{number}"))
        restored = _RESTORED if number == 1 else f"{_RESTORED}-{number}"
        sim.stop_after(guest, name, _STEPS)
        self._checkpoint(client, name, image)
        before = self._run_on(sim, guest, name)
        self._kill(client, name)
        self._restore(client, restored, bundle, image)
        after = self._run_on(sim, guest, restored)
        self.outcome.proofs += compare(before, after)
        self._works_on(sim, guest, restored)
        return restored

    def _machine(self, stack: contextlib.ExitStack) -> Machine:
        if self._plan.real:
            with self._step("machine", "the GPU of this host"):
                return stack.enter_context(Hardware(self._plan.runsc, helper=self._plan.helper))
        with self._step("machine", "a simulated GPU in a private /dev"):
            return stack.enter_context(Simulation(self._plan.runsc))

    def _sidecar(self, stack: contextlib.ExitStack, sim: Machine) -> Client:
        with self._step("sidecar", "cryo serve"):
            sim.start_sidecar()
            client = stack.enter_context(Client(sim.address, NAMESPACE))
            self.outcome.host = client.info()
            self.outcome.gpu = self.outcome.host.get("gpus", "")
            return client

    def _container(self, sim: Machine, client: Client, guest: TaskGuest) -> Path:
        changing, weights = shares(self._plan.gpu_mib << 20, real=self._plan.real)
        settings = Settings(
            processes=self._plan.processes,
            period_s=_PERIOD_S,
            resident_mib=_RESIDENT_MIB,
            real=self._plan.real,
            pytorch=self._plan.pytorch,
            device_bytes=changing,
            weights_bytes=weights,
        )
        with self._step("container", f"{settings.processes} processes with GPU memory") as details:
            bundle = self._bundle(sim, settings)
            log = sim.folder / "workload.log"
            stdio = Stdio(stdout=f"file://{log}", stderr=f"file://{log}")
            client.create(_ORIGINAL, str(bundle), stdio=stdio)
            client.start(_ORIGINAL)
            status = sim.until_ready(guest, _ORIGINAL, _READY_S)
            check_begun(status, log)
            details.append(f"pids {' '.join(map(str, status.pids))}")
        return bundle

    def _bundle(self, sim: Machine, settings: Settings) -> Path:
        if isinstance(sim, Simulation):
            # A real cuda-checkpoint of this host would be found first in the rootfs.
            real_one = tools.host_has_cuda_checkpoint()
            return sim.bundle(_ORIGINAL, settings, inject_tool=real_one, annotations=_PARKS)
        return sim.bundle(_ORIGINAL, settings, annotations=_PARKS)

    def _checkpoint(self, client: Client, name: str, image: str) -> None:
        options = CheckpointOptions(image_path=image, engine=self._plan.engine)
        work = self._operation(client, name, "checkpoint", "while it runs")
        with work as (notes, details):
            result = client.checkpoint(name, options, self._reporter.progress)
            self.outcome.engine = result.engine
            self.outcome.image_path = result.image_path if self._plan.keep_image else ""
            self.outcome.image_bytes = result.size_bytes
            self.outcome.image_digest = result.digest
            self.outcome.warnings += result.warnings
            details.append(f"engine {result.engine}")
            if result.engine == EngineName.BUILTIN:
                notes[Phase.SAVE] = "lock and freeze included"

    def _restore(self, client: Client, name: str, bundle: Path, image: str) -> None:
        mappable = self._plan.real and self.outcome.engine == EngineName.PHASED
        found = inventory.read(config.Cuda().nvidia_proc) if mappable else Inventory()
        device_map = other_gpus(found)
        options = RestoreOptions(image_path=image, bundle=str(bundle), device_map=device_map)
        with self._operation(client, name, "restore", "as a new container") as (_, details):
            if device_map:
                details.append(f"on the next of {len(device_map)} GPUs")
            result = client.restore(name, options, self._reporter.progress)
            self.outcome.warnings += result.warnings

    @contextlib.contextmanager
    def _operation(
        self, client: Client, task: str, name: str, what: str
    ) -> Iterator[tuple[dict[str, str], list[str]]]:
        """Report a checkpoint or restore, with its phases and the notes on them."""
        self._reporter.begin(name, what)
        details: list[str] = []
        notes: dict[str, str] = {}
        began = time.monotonic() - self._zero
        yield notes, details
        ended = time.monotonic() - self._zero
        phases = timeline.drawn(client.timelines(task)[-1], notes)
        self._done(Step(name, began, ended, " ".join(details), phases))

    def _run_on(self, sim: Machine, guest: TaskGuest, name: str) -> Status:
        with self._step("run on", f"the {name} task, to the moment of comparison") as details:
            status = sim.until_held(guest, name)
            steps = sorted({p.generation for p in status.processes})
            details.append("step " + " to ".join(map(str, dict.fromkeys((steps[0], steps[-1])))))
        self.outcome.losses += [f"{name}: {loss}" for loss in status.losses]
        if not status.resident_ok:
            self.outcome.losses.append(f"{name}: resident CPU memory changed")
        return status

    def _kill(self, client: Client, name: str) -> None:
        with self._step("kill", "the container; its GPU memory is lost") as details:
            client.kill(name, signal.SIGKILL)
            details.append(f"exit {client.wait(name).status}")
            client.delete(name)

    def _park(self, sim: Machine, client: Client, guest: TaskGuest, name: str) -> None:
        """Pause with the GPU memory released, resume, and compare at the same generation."""
        sim.hold(guest, name)
        before = sim.verify(guest, name)
        with self._step("park", "paused, its GPU memory released"):
            client.pause(name)
        with self._step("unpark", "resumed with its GPU memory"):
            client.resume(name)
        self.outcome.proofs += compare(before, sim.verify(guest, name))
        self._works_on(sim, guest, name)

    def _works_on(self, sim: Machine, guest: TaskGuest, name: str) -> None:
        with self._step("work on", "every process continues"):
            sim.go(guest, name)
            if not sim.works(guest, name):
                message = "the restored container does not continue"
                raise FailedPrecondition(message, remedy="see `log` in the report of --json")

    def _keep_log(self, sim: Machine) -> None:
        """Keep the end of the sidecar's log when the selftest failed."""
        if not self.outcome.passed:
            with contextlib.suppress(OSError):
                self.outcome.log = sim.sidecar_log.read_text("utf-8", "replace")[-_LOG_TAIL:]


def check_begun(status: Status, log: Path) -> None:
    """Check that every process of the workload has allocated its memory.

    Raises:
        FailedPrecondition: one has not; the message has the last line of its output.
    """
    if not status.losses:
        return
    said = log.read_text("utf-8", "replace").strip().splitlines() if log.exists() else []
    why = said[-1][:_REASON_MAX] if said else "it printed nothing"
    message = f"the workload could not start: {status.losses[0]}: {why}"
    raise FailedPrecondition(
        message, remedy="reduce --gpu-mib, or stop other processes that use GPU memory"
    )


def other_gpus(found: Inventory) -> dict[str, str]:
    """Map each GPU to the next one; empty with one GPU, or if the driver supports no map."""
    uuids = [gpu.uuid for gpu in found.gpus]
    if not uuids[1:] or not driver.capabilities(found.driver).device_map:
        return {}
    return dict(zip(uuids, (*uuids[1:], uuids[0]), strict=True))
