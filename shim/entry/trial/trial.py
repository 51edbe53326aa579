"""The trial: a container with live GPU state goes through the whole cycle, and is compared.

Each process is told beforehand at which generation to stop. The original gets there after the
checkpoint; the restored copy, which knows no more than what was saved, gets there again by itself.
There both must hold the same bytes, which are also computed from the pattern alone.
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
from shim.entry.trial.guest import TaskGuest
from shim.entry.trial.outcome import Outcome, Span, Step, compare
from shim.entry.trial.spans import Spans
from shim.errors import CryoError, FailedPrecondition
from shim.model import CheckpointOptions, EngineName, Phase, Progress, RestoreOptions, Stdio
from shim.simgpu import tools
from shim.simgpu.bundle import shares
from shim.simgpu.hardware import Hardware
from shim.simgpu.machine import Machine
from shim.simgpu.simulation import Settings, Simulation
from shim.simgpu.status import Status

NAMESPACE = "selftest"
_ORIGINAL = "original"
_RESTORED = "restored"
# At 100 steps a second: long enough that the checkpoint falls in between.
_STEPS = 120
_PERIOD_S = 0.01
_RESIDENT_MIB = 16
# The import of PyTorch reads gigabytes, in every process.
_READY_S = 240.0
_PARKS = {"io.cryo.park": "true"}
_LOG_TAIL = 4000
_WORDS_MAX = 300


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What to try."""

    runsc: Path
    engine: EngineName = EngineName.AUTO
    processes: int = 2
    real: bool = False
    rounds: int = 1
    gpu_mib: int = 1
    pytorch: bool = False
    helper: str = "auto"
    keep_image: Path | None = None


class Teller(Protocol):
    """Whoever tells a person how it goes."""

    def begin(self, name: str, what: str) -> None:
        """Say that a step begins."""

    def progress(self, progress: Progress) -> None:
        """Say how a checkpoint or restore gets on."""

    def end(self, step: Step) -> None:
        """Say that a step is done."""

    def outcome(self, outcome: Outcome) -> None:
        """Say what came of it all."""


class Trial:
    """One selftest, from `run` to an outcome."""

    def __init__(self, plan: Plan, teller: Teller) -> None:
        self._plan = plan
        self._teller = teller
        self._zero = time.monotonic()
        self.outcome = Outcome(simulated=not plan.real)

    def run(self) -> Outcome:
        """Try it; whatever goes wrong on the way is part of the outcome."""
        with contextlib.ExitStack() as stack:
            try:
                self._cycle(stack)
            except CryoError as error:
                self.outcome.error = str(error)
                self.outcome.remedy = error.remedy
        self._teller.outcome(self.outcome)
        return self.outcome

    @contextlib.contextmanager
    def _step(self, name: str, what: str) -> Iterator[list[str]]:
        """Tell of a step and time it; what is put into the list becomes its detail."""
        self._teller.begin(name, what)
        details: list[str] = []
        began = time.monotonic() - self._zero
        yield details
        self._done(Step(name, began, time.monotonic() - self._zero, " ".join(details)))

    def _done(self, step: Step) -> None:
        self.outcome.steps.append(step)
        self._teller.end(step)

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
        """Checkpoint, kill, restore and compare; return the name of the restored one."""
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
            # The real cuda-checkpoint of this host, if any, would be found in the rootfs first.
            real_one = tools.host_has_cuda_checkpoint()
            return sim.bundle(_ORIGINAL, settings, inject_tool=real_one, annotations=_PARKS)
        return sim.bundle(_ORIGINAL, settings, annotations=_PARKS)

    def _checkpoint(self, client: Client, name: str, image: str) -> None:
        options = CheckpointOptions(image_path=image, engine=self._plan.engine)
        with self._operation("checkpoint", "while it runs") as (spans, details):
            result = client.checkpoint(name, options, self._hear(spans))
            self.outcome.engine = result.engine
            self.outcome.image_path = result.image_path if self._plan.keep_image else ""
            self.outcome.image_bytes = result.size_bytes
            self.outcome.image_digest = result.digest
            self.outcome.warnings += result.warnings
            details.append(f"engine {result.engine}")
            if result.engine == EngineName.BUILTIN:
                spans.explain(Phase.SAVE, "lock and freeze included")

    def _restore(self, client: Client, name: str, bundle: Path, image: str) -> None:
        mappable = self._plan.real and self.outcome.engine == EngineName.PHASED
        found = inventory.read(config.Cuda().nvidia_proc) if mappable else Inventory()
        device_map = other_gpus(found)
        options = RestoreOptions(image_path=image, bundle=str(bundle), device_map=device_map)
        with self._operation("restore", "as a new container") as (spans, details):
            if device_map:
                details.append(f"on the next of {len(device_map)} GPUs")
            result = client.restore(name, options, self._hear(spans))
            self.outcome.warnings += result.warnings

    @contextlib.contextmanager
    def _operation(self, name: str, what: str) -> Iterator[tuple[Spans, list[str]]]:
        """Tell of a checkpoint or restore, with its phases."""
        self._teller.begin(name, what)
        details: list[str] = []
        began, spans = time.monotonic() - self._zero, Spans()
        yield spans, details
        phases: tuple[Span, ...] = spans.end()
        ended = time.monotonic() - self._zero
        self._done(Step(name, began, ended, " ".join(details), phases))

    def _hear(self, spans: Spans) -> _Hearing:
        return _Hearing(spans, self._teller)

    def _run_on(self, sim: Machine, guest: TaskGuest, name: str) -> Status:
        with self._step("run on", f"the {name} one, to the moment of comparison") as details:
            status = sim.until_held(guest, name)
            steps = sorted({p.generation for p in status.processes})
            details.append("step " + " to ".join(map(str, dict.fromkeys((steps[0], steps[-1])))))
        self.outcome.losses += [f"{name}: {loss}" for loss in status.losses]
        if not status.resident_ok:
            self.outcome.losses.append(f"{name}: resident CPU memory changed")
        return status

    def _kill(self, client: Client, name: str) -> None:
        with self._step("kill", "the container, and its GPU memory with it") as details:
            client.kill(name, signal.SIGKILL)
            details.append(f"exit {client.wait(name).status}")
            client.delete(name)

    def _park(self, sim: Machine, client: Client, guest: TaskGuest, name: str) -> None:
        """Pause with the GPU memory given back, go on, and compare at the same generation."""
        sim.hold(guest, name)
        before = sim.verify(guest, name)
        with self._step("park", "paused, its GPU memory given back"):
            client.pause(name)
        with self._step("unpark", "it goes on with its GPU memory"):
            client.resume(name)
        self.outcome.proofs += compare(before, sim.verify(guest, name))
        self._works_on(sim, guest, name)

    def _works_on(self, sim: Machine, guest: TaskGuest, name: str) -> None:
        with self._step("work on", "every process takes up its work"):
            sim.go(guest, name)
            if not sim.works(guest, name):
                message = "the restored container does not work on"
                raise FailedPrecondition(message, remedy="see the losses in the report")

    def _keep_log(self, sim: Machine) -> None:
        """Keep the sidecar's last words when something went wrong."""
        if not self.outcome.passed:
            with contextlib.suppress(OSError):
                self.outcome.log = sim.sidecar_log.read_text("utf-8", "replace")[-_LOG_TAIL:]


def check_begun(status: Status, log: Path) -> None:
    """See that every process of the workload could take what it is to hold.

    Raises:
        FailedPrecondition: one could not; the last that it printed says why.
    """
    if not status.losses:
        return
    said = log.read_text("utf-8", "replace").strip().splitlines() if log.exists() else []
    why = said[-1][:_WORDS_MAX] if said else "it said nothing"
    message = f"the workload could not begin: {status.losses[0]}: {why}"
    raise FailedPrecondition(message, remedy="ask for less GPU memory, or see whose it is now")


def other_gpus(found: Inventory) -> dict[str, str]:
    """Give each GPU's work to the next one; empty where there is no other, or no way to say so."""
    uuids = [gpu.uuid for gpu in found.gpus]
    if not uuids[1:] or not driver.capabilities(found.driver).device_map:
        return {}
    return dict(zip(uuids, (*uuids[1:], uuids[0]), strict=True))


class _Hearing:
    """Passes news to the spans and to the teller."""

    def __init__(self, spans: Spans, teller: Teller) -> None:
        self._spans = spans
        self._teller = teller

    def __call__(self, progress: Progress) -> None:
        self._spans.hear(progress)
        self._teller.progress(progress)
