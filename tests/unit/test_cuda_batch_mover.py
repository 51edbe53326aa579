"""Batch moves by cryo-cuda, of processes outside any sandbox."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import pytest

from shim import failpoints
from shim.config import Timeouts
from shim.cuda import driver, native
from shim.cuda.batch import PIDS_MAX, Helper
from shim.cuda.batch_mover import BatchMover
from shim.cuda.group import CudaGroup
from shim.cuda.step_mover import StepMover
from shim.cuda.table import ProcessTable
from shim.cuda.tool import Tool
from shim.errors import (
    CryoError,
    CudaError,
    DeadlineExceeded,
    ResourceExhausted,
    RunscError,
    Unavailable,
)
from shim.model import CudaProcess, CudaState, Progress
from shim.runsc.command_exec import Process
from shim.runsc.output import GuestProcess
from shim.runsc.run import Completed, run
from shim.simgpu.fault import Fault, Kind
from shim.simgpu.waiting import wait_until
from tests.builds import excuse
from tests.unit.fakes_guest import TOOL, Cuda, FakeGuest
from tests.unit.fakes_native import Ground, ground, missing

QUICK = Timeouts(detect=20, lock=0.3, freeze=0.5, thaw=0.5)
RUNNING, LOCKED, FROZEN = CudaState.RUNNING, CudaState.LOCKED, CudaState.CHECKPOINTED
SIDES = (failpoints.BEFORE, failpoints.AFTER)


@dataclass
class Here:
    """A guest whose programs run on this host, among the processes of a ground."""

    ground: Ground
    runs: list[list[str]] = field(default_factory=list)
    # The runs whose outcome is lost, since runsc is killed.
    lost: set[str] = field(default_factory=set)

    async def run(
        self, argv: Sequence[str], *, timeout_s: float, process: Process | None = None
    ) -> Completed:
        """Run it."""
        self.runs.append(list(argv))
        done = await run(argv, timeout_s=timeout_s, env=self.ground.environment)
        return Completed(status=-9, stdout=b"", stderr=b"") if argv[2] in self.lost else done

    async def ps(self) -> list[GuestProcess]:
        """List the ground's processes."""
        alive = [p for p in self.ground.pids if Path(f"/proc/{p}/exe").exists()]
        return [GuestProcess(pid=pid, parent=1, command="sleep") for pid in alive]

    async def own_numbers(self, rows: list[GuestProcess]) -> dict[int, int] | None:
        """Give the numbers of this host, which are the ground's own."""
        return {row.pid: row.pid for row in rows}

    async def has(self, pid: int) -> bool:
        """Whether it is one of the ground's and lives."""
        return any(row.pid == pid for row in await self.ps())

    async def end(self, pid: int) -> None:
        """End nothing."""

    async def settle(self) -> None:
        """Owe nothing."""


class Stage:
    """Three processes, with what was reported and recorded about them."""

    def __init__(self, made: Ground) -> None:
        self.ground = made
        self.guest = Here(made)
        self.updates: list[Progress] = []
        self.records: list[tuple[int, str]] = []
        tool = Tool(self.guest, native.path(), driver.capabilities("580.65.06"))
        self.table = ProcessTable(
            self.updates.append, lambda pid, _, state: self.records.append((pid, state))
        )
        steps = StepMover(self.table, self.guest, tool, QUICK)
        self.mover = BatchMover(steps, Helper(self.guest, native.path()))
        self.group = CudaGroup([self.mover])
        for pid in made.pids:
            self.table.known[pid] = CudaProcess(pid=pid, name="sleep")
            self.table.states[pid] = RUNNING


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    """Give three CUDA processes."""
    if reason := missing():
        excuse(reason)
    with ground(tmp_path, 3) as made:
        yield Stage(made)


async def test_there_and_back(stage: Stage) -> None:
    """One run each way, and each process is written down before it is moved."""
    await stage.group.freeze()
    assert stage.ground.states == ["checkpointed"] * 3
    assert set(stage.table.states.values()) == {FROZEN}
    await stage.group.thaw()

    assert stage.ground.states == ["running"] * 3
    assert stage.table.running()
    assert [run[2] for run in stage.guest.runs] == ["freeze", "thaw"]
    assert stage.records[:3] == [(pid, "freezing") for pid in stage.ground.pids]


async def test_all_are_locked_before_one_is_checkpointed(stage: Stage) -> None:
    """And all are restored before one is unlocked."""
    await stage.group.freeze()
    await stage.group.thaw()

    order = [c["action"] for c in stage.ground.device.script.calls]
    moves = [action for action in order if action not in ("init", "get-state")]
    assert moves == [*["lock"] * 3, *["checkpoint"] * 3, *["restore"] * 3, *["unlock"] * 3]


async def test_nothing_is_written_nothing_is_moved(stage: Stage) -> None:
    """A journal that cannot be written stops the freeze before it begins."""

    def full(_pid: int, _name: str, _state: str) -> None:
        raise OSError(28, "No space left on device")

    stage.table._record = full
    with pytest.raises(OSError, match="space"):
        await stage.group.freeze()

    assert stage.guest.runs == []


@pytest.mark.parametrize("state", ("locked", "checkpointed"))
async def test_half_way_states_lead_both_ways(stage: Stage, state: str) -> None:
    """A process that is further already is taken from there, and none is inverted."""
    first = stage.ground.pids[0]
    stage.ground.drivers[first].state = state
    await stage.group.freeze()
    assert stage.ground.states == ["checkpointed"] * 3
    stage.ground.drivers[first].state = "running" if state == "checkpointed" else "locked"
    await stage.group.thaw()

    assert stage.ground.states == ["running"] * 3


async def test_a_failed_process_stops_a_freeze(stage: Stage) -> None:
    """What the driver calls failed is reported; the others are not touched."""
    stage.ground.drivers[stage.ground.pids[1]].state = "failed"

    with pytest.raises(CudaError, match="failed"):
        await stage.group.freeze()

    assert stage.ground.states == ["running", "failed", "running"]


@pytest.mark.parametrize(
    ("fault", "kind", "states"),
    (
        (Fault(action="lock", kind=Kind.BUSY, nth=2), DeadlineExceeded, {"running", "locked"}),
        (Fault(action="lock", kind=Kind.HANG, nth=2), DeadlineExceeded, {"running", "locked"}),
        (Fault(action="lock", kind=Kind.WRONG_STATE, nth=2), CudaError, {"running", "locked"}),
        (Fault(action="checkpoint", kind=Kind.FAIL, nth=2), CudaError, {"locked", "checkpointed"}),
        (Fault(action="checkpoint", kind=Kind.FAIL_AFTER, nth=2), CudaError, {"checkpointed"}),
        (
            Fault(action="checkpoint", kind=Kind.HANG, nth=2),
            DeadlineExceeded,
            {"locked", "checkpointed"},
        ),
    ),
)
async def test_what_stops_a_freeze(
    stage: Stage, fault: Fault, kind: type[CryoError], states: set[str]
) -> None:
    """The error names the process, no process resumes, and a thaw brings all back."""
    stage.ground.faults(fault)
    with pytest.raises(kind) as caught:
        await stage.group.freeze()

    assert any(f"{pid} (sleep)" in caught.value.message for pid in stage.ground.pids)
    if fault.kind is Kind.HANG:
        limit_s = {"lock": QUICK.lock, "checkpoint": QUICK.freeze}[fault.action]
        assert f"{fault.action} on process" in caught.value.message
        assert f"did not end in {limit_s:g} s" in caught.value.message
    assert set(stage.ground.states) == states
    stage.ground.faults()
    await stage.group.thaw()
    assert stage.ground.states == ["running"] * 3


@pytest.mark.parametrize(
    ("fault", "kind"),
    (
        (Fault(action="restore", kind=Kind.FAIL, nth=2), CudaError),
        (Fault(action="restore", kind=Kind.HANG, nth=2), DeadlineExceeded),
        (Fault(action="restore", kind=Kind.OOM, nth=2), ResourceExhausted),
        (Fault(action="get-state", kind=Kind.HANG, nth=2), DeadlineExceeded),
    ),
)
async def test_one_that_does_not_come_back(
    stage: Stage, fault: Fault, kind: type[CryoError]
) -> None:
    """It does not affect the others, and is reported."""
    await stage.group.freeze()
    # Its timeout is waited for: the usual one is long.
    stage.mover._timeouts = msgspec.structs.replace(QUICK, detect=4)
    stage.ground.faults(fault)
    with pytest.raises(kind):
        await stage.group.thaw()

    assert sorted(stage.ground.states) == ["checkpointed", "running", "running"]


async def test_refresh_reads_what_is(stage: Stage) -> None:
    """The states come from the driver, not from our books."""
    stage.ground.drivers[stage.ground.pids[0]].state = "locked"

    assert await stage.mover.refresh() == []
    assert sorted(stage.table.states.values()) == sorted([LOCKED, RUNNING, RUNNING])


async def test_a_look_finds_who_holds_a_device(stage: Stage) -> None:
    """Our own process, which holds none, is not in it; established TCP connections may be."""
    assert await stage.mover.find() == []
    assert stage.table.last_scan is not None
    assert stage.table.last_scan.method == "helper"


async def test_too_many_are_left_to_the_tool(stage: Stage) -> None:
    """More processes than a run takes are no error of the container's."""
    with pytest.raises(Unavailable):
        await Helper(stage.guest, native.path()).states(range(1, PIDS_MAX + 2), detect_s=1)


async def test_a_cancelled_freeze_ends_the_program(stage: Stage) -> None:
    """A cancelled call leaves no program behind that would move a process later."""
    stage.ground.faults(Fault(action="checkpoint", kind=Kind.SLOW, seconds=0.3))
    work = asyncio.create_task(stage.group.freeze())
    await asyncio.to_thread(wait_until, lambda: "locked" in stage.ground.states, "a lock", 5)
    work.cancel()
    await asyncio.wait({work})
    stage.ground.faults()
    await stage.group.thaw()

    assert stage.ground.states == ["running"] * 3


async def test_a_run_passes_the_failpoints_of_its_steps(stage: Stage) -> None:
    """A fault may be put before each kind of move, and after each that went well."""
    reached: list[str] = []
    failpoints.arm(reached.append)
    try:
        await stage.mover.find()
        await stage.mover.refresh()
        assert reached == ["cuda.get-state:before", "cuda.get-state:after"] * 2
        del reached[:]
        await stage.group.freeze()
        down = {f"cuda.{one}" for one in ("get-state", "lock", "checkpoint")}
        assert sorted(reached) == sorted(f"{one}:{side}" for one in down for side in SIDES)
        del reached[:]
        await stage.group.thaw()
    finally:
        failpoints.arm(None)

    up = {f"cuda.{one}" for one in ("get-state", "restore", "unlock")}
    assert sorted(reached) == sorted(f"{one}:{side}" for one in up for side in SIDES)


@pytest.mark.parametrize("point", ("cuda.lock:before", "cuda.checkpoint:after"))
async def test_a_fault_at_a_failpoint_of_a_run(stage: Stage, point: str) -> None:
    """It fails the freeze as a failed move does, and a thaw brings all back."""

    def fail(name: str) -> None:
        if name == point:
            raise CudaError("injected")

    failpoints.arm(fail)
    try:
        with pytest.raises(CudaError, match="injected"):
            await stage.group.freeze()
    finally:
        failpoints.arm(None)
    assert set(stage.ground.states) == {"running" if "before" in point else "checkpointed"}
    await stage.group.thaw()

    assert stage.ground.states == ["running"] * 3


@pytest.mark.parametrize("lost", ("freeze", "thaw"))
async def test_a_run_whose_outcome_is_lost(stage: Stage, lost: str) -> None:
    """It has moved them all, so the tool that takes over looks before it moves any."""
    stage.guest.lost.add(lost)

    await stage.group.freeze()
    assert stage.ground.states == ["checkpointed"] * 3
    await stage.group.thaw()

    assert stage.ground.states == ["running"] * 3
    moves = [c["action"] for c in stage.ground.device.script.calls]
    assert [moves.count(action) for action in ("lock", "unlock")] == [3, 3]


class Gone(FakeGuest):
    """A container that is gone: nothing can be run in it."""

    async def run(
        self, argv: Sequence[str], *, timeout_s: float, process: Process | None = None
    ) -> Completed:
        """Fail as runsc does."""
        raise RunscError("exec", 128, "container not running")


@pytest.mark.parametrize("left", (0, 1))
async def test_a_container_that_is_gone(left: int) -> None:
    """Its processes are forgotten, which is no error; one that is there all the same is one."""
    guest = Gone([Cuda(7)] * left)
    tool = Tool(guest, TOOL, driver.capabilities("580.65.06"))
    table = ProcessTable(lambda _: None, lambda *_: None, container="b")
    helper = Helper(guest, "/dev/cryo/cryo-cuda")
    mover = BatchMover(StepMover(table, guest, tool, QUICK), helper)
    table.adopt([CudaProcess(pid=7), CudaProcess(pid=8)])

    with pytest.raises(RunscError) if left else contextlib.nullcontext():
        await CudaGroup([mover]).thaw()

    assert list(table.known) == [7] * left
    table.adopt([CudaProcess(pid=7)])
    assert len(await mover.refresh()) == left
    assert list(table.known) == [7] * left


# -- without it ----------------------------------------------------------------------------------


async def test_where_it_cannot_run_the_tool_takes_over() -> None:
    """Said once, at whatever step it shows; the way down and the way up are then the tool's."""
    guest, updates = FakeGuest([Cuda(7), Cuda(8)]), list[Progress]()
    tool = Tool(guest, TOOL, driver.capabilities("580.65.06"))
    helper = Helper(guest, "/dev/cryo/cryo-cuda")
    table = ProcessTable(updates.append, lambda *_: None)
    mover = BatchMover(StepMover(table, guest, tool, QUICK), helper)
    group = CudaGroup([mover])

    assert await mover.find() == [7, 8]
    assert mover.tool_path == TOOL
    await group.freeze()
    assert guest.states == [FROZEN, FROZEN]
    await group.thaw()

    assert guest.states == [RUNNING, RUNNING]
    assert len([one for one in updates if one.warning]) == 1
