"""The processes of several containers, moved as one: order, names, failures."""

from __future__ import annotations

from collections.abc import Iterable

import pytest

from shim.config import Timeouts
from shim.cuda import driver
from shim.cuda.batch import BatchOutput, Helper
from shim.cuda.batch_mover import BatchMover
from shim.cuda.group import CudaGroup
from shim.cuda.step_mover import StepMover
from shim.cuda.table import ProcessTable
from shim.cuda.tool import Tool
from shim.errors import CudaError, DeadlineExceeded
from shim.model import CudaProcess, CudaState
from tests.unit.fakes_guest import TOOL, Cuda, FakeGuest, Fault, failed

QUICK = Timeouts(detect=5, lock=5, freeze=5, thaw=5)
RUNNING, FROZEN = CudaState.RUNNING, CudaState.CHECKPOINTED


class Ground:
    """Two containers with a common record of what was done in them."""

    def __init__(self, *, lock_s: float = 5) -> None:
        self.guests = {"x": FakeGuest([Cuda(7, "p")]), "y": FakeGuest([Cuda(7, "q"), Cuda(8)])}
        self.done: list[tuple[str, int]] = []
        for guest in self.guests.values():
            guest.done = self.done
        timeouts = Timeouts(detect=5, lock=lock_s, freeze=5, thaw=5)
        self.group = CudaGroup([self._mover(name, timeouts) for name in self.guests])

    def _mover(self, name: str, timeouts: Timeouts) -> StepMover:
        guest = self.guests[name]
        tool = Tool(guest, TOOL, driver.capabilities("580.65.06"))
        table = ProcessTable(lambda _: None, lambda *_: None, container=name)
        return StepMover(table, guest, tool, timeouts)

    @property
    def states(self) -> list[CudaState | None]:
        """Return the states of all."""
        return [state for guest in self.guests.values() for state in guest.states]

    @property
    def verbs(self) -> list[str]:
        """Return the moves that were made, in order."""
        return [verb for verb, _ in self.done if verb not in {"get-state", "scan", "ps"}]


async def test_one_kind_of_move_at_a_time() -> None:
    """No container is frozen before every process of the others is locked; likewise back."""
    ground = Ground()
    found = await ground.group.find()

    await ground.group.freeze()
    assert ground.states == [FROZEN] * 3
    await ground.group.thaw()

    assert [(p.container, p.pid) for p in found] == [("x", 7), ("y", 7), ("y", 8)]
    assert ground.group.known == found
    assert ground.verbs == [v for v in ("lock", "checkpoint", "restore", "unlock") for _ in "123"]
    assert ground.states == [RUNNING] * 3
    assert ground.group.running()


async def test_a_lock_that_fails_in_one_freezes_none() -> None:
    """Nothing is frozen anywhere, and the message says in which container it was."""
    ground = Ground()
    await ground.group.find()
    ground.guests["y"].faults["lock", 8] = Fault(answer=failed("no"))

    with pytest.raises(CudaError, match=r"process 8 \(train\) of y"):
        await ground.group.freeze()

    assert "checkpoint" not in ground.verbs
    await ground.group.thaw()
    assert ground.states == [RUNNING] * 3


async def test_a_process_that_appears_in_another_container() -> None:
    """What begins in one while the other is being locked is frozen too."""
    ground = Ground()
    await ground.group.find()
    deed = ground.guests["x"].appears(9)
    ground.guests["y"].faults["lock", 8] = Fault(deed=deed)

    await ground.group.freeze()

    assert ground.states == [FROZEN] * 4
    assert CudaProcess(pid=9, name="late", container="x") in ground.group.known


async def test_what_holds_up_is_named_with_its_container() -> None:
    """So are those that are not back."""
    ground = Ground(lock_s=0.02)
    await ground.group.find()
    ground.guests["y"].faults["lock", 7] = Fault(hang=True)

    with pytest.raises(DeadlineExceeded):
        await ground.group.freeze()

    assert "of x is locked" in ground.group.unfinished()
    assert [(p.container, p.pid) for p, _ in ground.group.not_running()] == [("x", 7), ("y", 8)]


async def test_one_that_does_not_come_back_keeps_no_other() -> None:
    """Every other process of every container runs, and the failure is reported."""
    ground = Ground()
    await ground.group.find()
    await ground.group.freeze()
    ground.guests["x"].faults["restore", 7] = Fault(answer=failed("no"))

    with pytest.raises(CudaError, match="of x"):
        await ground.group.thaw()

    assert ground.states == [FROZEN, RUNNING, RUNNING]


async def test_a_container_that_is_gone_keeps_no_other() -> None:
    """Its processes are forgotten; those of the others come back."""
    ground = Ground()
    await ground.group.find()
    await ground.group.freeze()
    ground.guests["x"].processes.clear()
    ground.guests["x"].faults["get-state", 7] = Fault(answer=failed("runsc", 127))

    await ground.group.thaw()

    assert ground.states == [RUNNING, RUNNING]
    assert {p.container for p in ground.group.known} == {"y"}


class Unused(Helper):
    """A cryo-cuda that must not be run to move processes."""

    async def freeze(
        self, pids: Iterable[int], *, detect_s: float, lock_s: float, freeze_s: float
    ) -> BatchOutput:
        """Fail."""
        raise AssertionError(f"froze {list(pids)} in one run, of {detect_s + lock_s + freeze_s} s")


async def test_a_batch_mover_among_several_goes_step_by_step() -> None:
    """One run would freeze the processes of its container before all others are locked."""
    ground = Ground()
    movers = [
        BatchMover(mover, Unused(mover.guest, "/dev/cryo/cryo-cuda"))
        for mover in ground.group.movers
        if isinstance(mover, StepMover)
    ]
    await ground.group.find()

    await CudaGroup(movers).freeze()

    assert ground.states == [FROZEN] * 3
    assert ground.verbs == ["lock"] * 3 + ["checkpoint"] * 3
