"""The CUDA steps of one transaction: which engine, over which processes. Chosen once, then used."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from shim.checkpoint.subject import Subject
from shim.cuda.batch import Helper
from shim.cuda.batched import Batched
from shim.cuda.driver import DriverFacts
from shim.cuda.engine import Builtin, Engine, Phased
from shim.cuda.inject import helper_in
from shim.cuda.processes import Processes
from shim.cuda.toggle import ToggleTool
from shim.cuda.tool import CudaTool, Tool
from shim.errors import DeadlineExceeded, Unimplemented
from shim.model import CudaProcess, CudaState, EngineName, Report


@dataclass(frozen=True, kw_only=True, slots=True)
class Steps:
    """An engine and the processes that it works on."""

    engine: Engine
    processes: Processes


def tool_for(subject: Subject, facts: DriverFacts, known: Iterable[int] = ()) -> CudaTool:
    """Choose how to speak to cuda-checkpoint: by states and actions, or by toggles on 550."""
    if facts.action and facts.get_state:
        return Tool(subject.guest, subject.guest_tool, facts)
    return ToggleTool(subject.guest, subject.guest_tool, frozenset(known))


def helper_for(subject: Subject, facts: DriverFacts) -> str:
    """Return cryo-cuda's path inside the container, empty where it is not to be used."""
    wanted = subject.config.cuda.helper == "auto" and facts.driver_api
    return helper_in(subject.spec) if wanted else ""


def processes_for(
    subject: Subject,
    facts: DriverFacts,
    report: Report,
    known: Iterable[CudaProcess] = (),
    device_map: Mapping[str, str] | None = None,
) -> Processes:
    """Build the container's process list, seeded with those a journal or manifest names."""
    seeds = list(known)
    parts = (
        subject.guest,
        tool_for(subject, facts, (process.pid for process in seeds)),
        subject.config.timeouts,
        report,
        subject.journal.process,
    )
    path = helper_for(subject, facts)
    helper = Helper(subject.guest, path) if path else None
    processes = Batched(helper, *parts) if helper else Processes(*parts)
    processes.adopt(seeds)
    processes.device_map = device_map if device_map and facts.device_map else {}
    return processes


def engine_for(subject: Subject, name: EngineName, processes: Processes) -> Engine:
    """Build the engine of a given name."""
    if name is EngineName.BUILTIN:
        timeouts = subject.config.timeouts
        tool_path = processes.helper_path or subject.guest_tool
        return Builtin(processes, subject.guest, tool_path, timeouts)
    return Phased(processes)


def late_rollback(timeout_s: float, held_up: str) -> DeadlineExceeded:
    """Say that a rollback took too long, and which processes are not back."""
    message = f"it did not end in {timeout_s:g} s"
    return DeadlineExceeded(
        f"{message}: {held_up}" if held_up else message,
        remedy="look at those processes; a new start of the sidecar tries again",
    )


def choose(
    subject: Subject, wanted: EngineName, processes: Processes, facts: DriverFacts
) -> EngineName:
    """Pick the engine: builtin where runsc has it and every process says that it is `running`.

    A driver that cannot be asked for states leaves runsc to guess, and skips silently what it
    guesses wrong: there the processes that we found are toggled by us.

    Raises:
        Unimplemented: builtin was asked for, and this runsc has none or this driver misleads it.
    """
    able = subject.runsc.capabilities.builtin_cuda
    if wanted is EngineName.BUILTIN and not able:
        message = "this runsc has no built-in CUDA steps (--cuda-checkpoint-path)"
        raise Unimplemented(message, remedy="use --engine phased, or runsc from 20260608 on")
    if wanted is EngineName.BUILTIN and not facts.get_state:
        message = f"with driver {facts.version} runsc's engine guesses which processes have CUDA"
        raise Unimplemented(message, remedy="use --engine phased, or driver 555 or newer")
    if wanted is not EngineName.AUTO:
        return wanted
    plain = all(state is CudaState.RUNNING for state in processes.states.values())
    return EngineName.BUILTIN if able and plain and facts.get_state else EngineName.PHASED
