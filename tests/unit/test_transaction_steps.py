"""Which tool and which engine a transaction uses."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

from shim.config import Cuda as CudaConfig
from shim.cuda import driver
from shim.cuda.batch_mover import BatchMover
from shim.cuda.engine import Builtin
from shim.cuda.group import CudaGroup
from shim.cuda.step_mover import StepMover
from shim.cuda.toggle import ToggleTool
from shim.cuda.tool import Tool
from shim.errors import Unimplemented
from shim.model import CudaProcess, CudaState, EngineName, Progress
from shim.oci.edits import BindMount, Edits, apply
from shim.transaction.journal import Operation
from shim.transaction.steps import (
    choose,
    engine_for,
    group_for,
    mover_for,
    tool_for,
)
from shim.transaction.target import CheckpointTarget
from tests.unit.fakes_guest import TOOL, Cuda, FakeGuest
from tests.unit.fakes_target import Scene, sleeping

AUTO, BUILTIN, PHASED = EngineName.AUTO, EngineName.BUILTIN, EngineName.PHASED
NEVER = CudaConfig(helper="never")


def ignored(_updates: Progress) -> None:
    """Discard the report."""


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    """Give a task with two CUDA processes."""
    with sleeping() as process:
        yield Scene(tmp_path, process, FakeGuest([Cuda(7), Cuda(8)]))


@pytest.mark.parametrize(("version", "kind"), (("550.90.07", ToggleTool), ("555.42.02", Tool)))
def test_the_tool_that_the_driver_understands(scene: Scene, version: str, kind: type) -> None:
    """Actions from 555 on, toggles before."""
    assert type(tool_for(scene.target, driver.capabilities(version))) is kind


TABLE = (
    # wanted, runsc is new, driver, states, chosen
    (AUTO, True, "580.65.06", CudaState.RUNNING, BUILTIN),
    (AUTO, False, "580.65.06", CudaState.RUNNING, PHASED),
    (AUTO, True, "580.65.06", CudaState.LOCKED, PHASED),
    (AUTO, True, "580.65.06", CudaState.CHECKPOINTED, PHASED),
    (AUTO, True, "550.90.07", CudaState.RUNNING, PHASED),
    (PHASED, True, "580.65.06", CudaState.RUNNING, PHASED),
    (PHASED, False, "580.65.06", CudaState.RUNNING, PHASED),
    (BUILTIN, True, "580.65.06", CudaState.RUNNING, BUILTIN),
)


@pytest.mark.parametrize(("wanted", "new", "version", "state", "chosen"), TABLE)
def test_the_engine(
    scene: Scene, wanted: EngineName, new: bool, version: str, state: CudaState, chosen: EngineName
) -> None:
    """Auto takes runsc's own where that is safe; a name that was given is taken at its word."""
    (scene.folder / "x").mkdir()
    fresh = Scene(scene.folder / "x", scene.sandbox, scene.guest, new=new)
    facts = driver.capabilities(version)
    mover = mover_for(fresh.target, facts, lambda _: None)
    mover.table.states.update({7: CudaState.RUNNING, 8: state})

    assert choose(fresh.target, wanted, CudaGroup([mover]), facts) is chosen


def test_an_engine_that_is_not_there(scene: Scene) -> None:
    """What to use instead is said."""
    (scene.folder / "x").mkdir()
    old = Scene(scene.folder / "x", scene.sandbox, scene.guest, new=False)
    facts = driver.capabilities("580.65.06")
    mover = mover_for(old.target, facts, lambda _: None)

    with pytest.raises(Unimplemented, match="cuda-checkpoint-path") as caught:
        choose(old.target, BUILTIN, CudaGroup([mover]), facts)
    assert "phased" in caught.value.remedy


def test_a_driver_that_misleads_the_builtin_engine(scene: Scene) -> None:
    """Driver 550 reports no states: the built-in engine is refused even when it is asked for."""
    facts = driver.capabilities("550.90.07")
    mover = mover_for(scene.target, facts, lambda _: None)

    with pytest.raises(Unimplemented, match="550"):
        choose(scene.target, EngineName.BUILTIN, CudaGroup([mover]), facts)


def test_engines_by_name(scene: Scene) -> None:
    """The name in a manifest or journal gives the engine back."""
    facts = driver.capabilities("580.65.06")
    group = CudaGroup([mover_for(scene.target, facts, lambda _: None)])

    builtin = engine_for(scene.target, BUILTIN, group)
    assert isinstance(builtin, Builtin)
    assert builtin.save_path == TOOL
    assert builtin.name is BUILTIN
    assert engine_for(scene.target, PHASED, group) is group
    assert group.name is PHASED


async def test_seeds_are_known_and_mapped(scene: Scene) -> None:
    """What a manifest names is worked on without a look, with its device map."""
    scene.guest.processes[0].state = CudaState.CHECKPOINTED
    seeds = [CudaProcess(pid=7, name="train")]
    facts = driver.capabilities("580.65.06")
    mover = mover_for(scene.target, facts, lambda _: None, seeds, {"GPU-a": "GPU-b"})
    scene.journal.open(Operation.RESTORE, "/i")
    await CudaGroup([mover]).thaw()

    assert scene.guest.state(7) is CudaState.RUNNING
    assert any("GPU-a=GPU-b" in argv for argv in scene.guest.calls)
    assert not any("8" in argv for argv in scene.guest.calls)


def test_a_tool_at_different_paths(scene: Scene) -> None:
    """Runsc takes one path for all containers, and would pass over the others in silence."""
    scene.others["b"] = FakeGuest([Cuda(7)])
    facts = driver.capabilities("580.65.06")
    other = replace(scene.target.members[0], guest_tool="/elsewhere")
    target = replace(scene.target, members=(other,))
    movers = [mover_for(one, facts, lambda _: None) for one in target.containers]
    for mover in movers:
        mover.table.adopt([CudaProcess(pid=7)])
    group = CudaGroup(movers)

    assert choose(target, AUTO, group, facts) is PHASED
    with pytest.raises(Unimplemented, match="/elsewhere"):
        choose(target, BUILTIN, group, facts)
    movers[0].table.known.clear()
    assert choose(target, AUTO, group, facts) is BUILTIN
    assert engine_for(target, BUILTIN, group).save_path == "/elsewhere"


def with_helper(target: CheckpointTarget) -> CheckpointTarget:
    """Mount cryo-cuda in a container."""
    mount = BindMount(destination="/dev/cryo/cryo-cuda", source="/usr/bin/true")
    return replace(target, spec=apply(target.spec, Edits(mounts=(mount,))))


def test_one_container_alone_is_moved_at_once(scene: Scene) -> None:
    """Where cryo-cuda is mounted, the driver has its calls and it is not disabled."""
    target, new, old = with_helper(scene.target), "570.86.15", "565.57.01"
    never = replace(target, config=msgspec.structs.replace(scene.config, cuda=NEVER))

    def group(one: CheckpointTarget, version: str) -> CudaGroup:
        return group_for([(one, [CudaProcess(pid=7)])], driver.capabilities(version), ignored)

    assert [type(mover) for mover in group(target, new).movers] == [BatchMover]
    assert group(target, new).tool_paths == ["/dev/cryo/cryo-cuda"]
    for one, version in ((scene.target, new), (target, old), (never, new)):
        assert [type(mover) for mover in group(one, version).movers] == [StepMover]
        assert group(one, version).tool_paths == [TOOL]


def test_several_containers_are_moved_step_by_step(scene: Scene) -> None:
    """One run would freeze the processes of one before those of the other are locked."""
    scene.others["b"] = FakeGuest([Cuda(7)])
    both = [with_helper(one) for one in scene.target.containers]
    facts = driver.capabilities("580.65.06")

    group = group_for([(one, [CudaProcess(pid=7)]) for one in both], facts, ignored)

    assert [type(mover) for mover in group.movers] == [StepMover, StepMover]
    assert group.tool_paths == [TOOL]
    assert [(p.container, p.pid) for p in group.known] == [("", 7), ("b", 7)]
    [alone] = group_for([(both[1], [])], facts, ignored).movers
    assert type(alone) is BatchMover
    assert group_for([], facts, ignored).movers == ()
