"""Which engine, movers and tool a transaction uses for the CUDA processes of its sandbox."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from shim.cuda.batch import Helper
from shim.cuda.batch_mover import BatchMover
from shim.cuda.driver import DriverFacts
from shim.cuda.engine import Builtin, Engine
from shim.cuda.group import CudaGroup, Mover
from shim.cuda.inject import helper_in
from shim.cuda.step_mover import StepMover
from shim.cuda.table import ProcessTable
from shim.cuda.toggle import ToggleTool
from shim.cuda.tool import CudaTool, Tool
from shim.errors import Impossible, NotFound, Unimplemented
from shim.model import CudaProcess, EngineName, Report
from shim.transaction.target import CheckpointTarget


@dataclass(frozen=True, kw_only=True, slots=True)
class Steps:
    """The engine of a transaction, and the processes that it works on."""

    engine: Engine
    processes: CudaGroup


def tool_for(target: CheckpointTarget, facts: DriverFacts, known: Iterable[int] = ()) -> CudaTool:
    """Choose how cuda-checkpoint is used: with states and actions, or by toggles on driver 550."""
    if facts.action and facts.get_state:
        return Tool(target.guest, target.guest_tool, facts)
    return ToggleTool(target.guest, target.guest_tool, frozenset(known))


def group_for(
    seeds: Sequence[tuple[CheckpointTarget, Iterable[CudaProcess]]],
    facts: DriverFacts,
    report: Report,
    device_map: Mapping[str, str] | None = None,
) -> CudaGroup:
    """Build the group of all containers that may have CUDA processes, with those known of each.

    Only a single container may be moved by cryo-cuda: with several, none may be frozen before all
    are locked, which a run in one container cannot ensure.
    """
    alone = len(seeds) == 1
    movers = [mover_for(one, facts, report, known, device_map, alone=alone) for one, known in seeds]
    return CudaGroup(movers)


def mover_for(
    target: CheckpointTarget,
    facts: DriverFacts,
    report: Report,
    known: Iterable[CudaProcess] = (),
    device_map: Mapping[str, str] | None = None,
    *,
    alone: bool = False,
) -> Mover:
    """Choose the mover of a container; `known` are the processes of a journal or manifest.

    `alone` is whether no other container of the sandbox may have any.
    """
    record = partial(target.journal.process, container=target.container)
    table = ProcessTable(report, record, container=target.container)
    table.adopt(known)
    steps = StepMover(
        table,
        target.guest,
        tool_for(target, facts, table.known),
        target.config.timeouts,
        may_ask=not target.container,
        device_map=device_map if facts.device_map else None,
    )
    batches = alone and facts.driver_api and target.config.cuda.helper == "auto"
    path = helper_in(target.spec) if batches else ""
    return BatchMover(steps, Helper(target.guest, path)) if path else steps


def engine_for(target: CheckpointTarget, name: EngineName, group: CudaGroup) -> Engine:
    """Build the engine of a given name."""
    if name is not EngineName.BUILTIN:
        return group
    tool_path = next(iter(group.tool_paths), target.guest_tool)
    guests = [one.guest for one in target.containers]
    return Builtin(group, guests, tool_path, target.config.timeouts)


async def look(group: CudaGroup, *, otherwise: str) -> None:
    """Find the CUDA processes; `otherwise` is the remedy without cuda-checkpoint.

    Raises:
        Impossible: the container has a GPU and no cuda-checkpoint.
        CryoError: the search failed.
    """
    try:
        await group.find()
    except NotFound as error:
        message = f"cuda-checkpoint is not in the container: {error.message}"
        raise Impossible(
            message,
            remedy="install it on the host (cuda.tool in config.toml) and create the task "
            f"again, or put it into the image; {otherwise}",
        ) from error


def choose(
    target: CheckpointTarget, wanted: EngineName, group: CudaGroup, facts: DriverFacts
) -> EngineName:
    """Pick the engine: builtin where runsc has it and every process says that it is `running`.

    A driver that cannot be asked for states leaves runsc to guess, and skips silently what it
    guesses wrong: there the processes that we found are toggled by us. It also takes one path of
    cuda-checkpoint for all containers of a pod, and skips those that have it elsewhere.

    Raises:
        Unimplemented: builtin was asked for, and this runsc has none or this driver misleads it,
            or the containers have cuda-checkpoint at different paths.
    """
    able = target.runsc.capabilities.builtin_cuda
    if wanted is EngineName.BUILTIN and not able:
        message = "this runsc has no built-in CUDA steps (--cuda-checkpoint-path)"
        raise Unimplemented(message, remedy="use --engine phased, or runsc from 20260608 on")
    if wanted is EngineName.BUILTIN and not facts.get_state:
        message = f"with driver {facts.version} runsc's engine guesses which processes have CUDA"
        raise Unimplemented(message, remedy="use --engine phased, or driver 555 or newer")
    tools = group.tool_paths
    if wanted is EngineName.BUILTIN and len(tools) > 1:
        message = f"the containers have cuda-checkpoint at different paths: {', '.join(tools)}"
        raise Unimplemented(message, remedy="use --engine phased")
    if wanted is not EngineName.AUTO:
        return wanted
    plain = not group.not_running() and len(tools) <= 1
    return EngineName.BUILTIN if able and plain and facts.get_state else EngineName.PHASED
