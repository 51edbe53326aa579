"""Freezing and thawing all CUDA processes of a container: order, races, failures, the way back."""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shim import failpoints
from shim.config import Timeouts
from shim.cuda import driver
from shim.cuda.group import CudaGroup
from shim.cuda.step_mover import StepMover
from shim.cuda.table import ProcessTable
from shim.cuda.tool import Tool
from shim.errors import CryoError, CudaError, DeadlineExceeded, ResourceExhausted, RunscError
from shim.model import CudaProcess, CudaState, Phase, Progress
from shim.runsc.output import GuestProcess
from shim.transaction.journal import Journal, Operation
from tests.unit.fakes_guest import TOOL, Cuda, FakeGuest, Fault, failed, says

QUICK = Timeouts(detect=5, lock=5, freeze=5, thaw=5)
RUNNING, LOCKED, FROZEN = CudaState.RUNNING, CudaState.LOCKED, CudaState.CHECKPOINTED
GONE_BEFORE = ("get-state", "lock", "checkpoint", "restore", "unlock")


@dataclass
class Ground:
    """A mover over a fake guest, with what it reported and recorded."""

    guest: FakeGuest
    timeouts: Timeouts = QUICK
    version: str = "580.65.06"
    may_ask: bool = True
    updates: list[Progress] = field(default_factory=list)
    records: list[tuple[int, str, str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        tool = Tool(self.guest, TOOL, driver.capabilities(self.version))
        self.table = ProcessTable(self.updates.append, lambda *row: self.records.append(row))
        self.mover = StepMover(self.table, self.guest, tool, self.timeouts, may_ask=self.may_ask)
        self.group = CudaGroup([self.mover])


def ground(*pids: int, timeouts: Timeouts = QUICK) -> Ground:
    """Make a container with these CUDA processes."""
    return Ground(FakeGuest([Cuda(pid, f"p{pid}") for pid in pids]), timeouts)


# -- finding -------------------------------------------------------------------------------------


async def test_cuda_processes_and_non_cuda_holders() -> None:
    """Who has state is known; who only holds a device is named and left alone."""
    found = Ground(FakeGuest([Cuda(7, "train"), Cuda(8, "nvml", state=None), Cuda(9, "infer")]))

    assert await found.mover.find() == [7, 9]

    assert found.table.known == {
        7: CudaProcess(pid=7, name="train"),
        9: CudaProcess(pid=9, name="infer"),
    }
    assert [holder.name for holder in found.table.non_cuda_holders] == ["nvml"]
    assert found.guest.verbs() == []


async def test_a_second_look_finds_only_what_is_new() -> None:
    """Known processes are not asked again."""
    found = ground(7)
    await found.mover.find()
    found.guest.processes.append(Cuda(8))

    assert await found.mover.find() == [8]
    assert await found.mover.find() == []


def claiming(count: int) -> FakeGuest:
    """Make a container with three processes that names many more as users of the GPU."""
    guest = FakeGuest([Cuda(7), Cuda(8), Cuda(9)])
    claimed = "".join(f"F {pid} /dev/nvidiactl\n" for pid in range(7, 7 + count))
    guest.faults["scan", 0] = Fault(answer=says(f"{claimed}E\n"))
    return guest


async def test_processes_that_are_only_claimed_are_not_asked() -> None:
    """Each question costs a command on the host, so it is put to real processes alone."""
    found = Ground(claiming(200))

    assert await found.mover.find() == [7, 8, 9]

    asked = [pid for verb, pid in found.guest.done if verb == "get-state"]
    assert sorted(asked) == [7, 8, 9]


async def test_a_member_cannot_claim_more_than_it_can_have() -> None:
    """Where its numbers are not those of ps, their count is compared with what is there."""
    found = Ground(claiming(200), may_ask=False)

    with pytest.raises(CudaError, match="names 200 GPU processes and has 4"):
        await found.mover.find()

    assert not [pid for verb, pid in found.guest.done if verb == "get-state"]


async def test_asking_names_no_non_cuda_holders() -> None:
    """With neither shell nor lsof every process is a candidate: none is named."""
    found = Ground(FakeGuest([Cuda(7), Cuda(8, state=None)], shell=False))

    assert await found.mover.find() == [7]
    assert found.table.non_cuda_holders == ()


async def test_a_tool_that_hangs_in_a_look_is_named() -> None:
    """One process that does not answer stops the look, and the error names it."""
    found = ground(7, 8, timeouts=Timeouts(detect=0.02))
    found.guest.faults["get-state", 8] = Fault(hang=True)

    with pytest.raises(DeadlineExceeded, match="get-state on process 8"):
        await found.mover.find()


# -- freezing ------------------------------------------------------------------------------------


async def test_all_are_locked_before_any_is_frozen() -> None:
    """A job's processes wait for one another: one that is frozen first never lets go."""
    full = ground(7, 8, 9)
    await full.mover.find()

    await full.group.freeze()

    verbs = full.guest.verbs()
    assert verbs == ["lock"] * 3 + ["checkpoint"] * 3
    assert full.guest.states == [FROZEN] * 3


async def test_all_are_restored_before_any_is_unlocked() -> None:
    """On the way back likewise: no kernel runs before every process has its memory."""
    full = ground(7, 8, 9)
    await full.mover.find()
    await full.group.freeze()
    full.guest.done.clear()

    await full.group.thaw()

    assert full.guest.verbs() == ["restore"] * 3 + ["unlock"] * 3
    assert full.guest.states == [RUNNING] * 3


async def test_work_goes_side_by_side_within_bounds() -> None:
    """Many processes are frozen at once, but not so many that the host gives in."""
    full = ground(*range(2, 42))
    await full.mover.find()

    await full.group.freeze()

    assert 8 <= full.guest.most_at_once <= 16


async def test_every_move_is_written_down_before_it_begins() -> None:
    """The journal shows for each process what may have been done to it."""
    full = ground(7)
    await full.mover.find()

    await full.group.freeze()
    await full.group.thaw()

    assert [state for _, _, state in full.records] == [
        "locking",
        "locked",
        "checkpointing",
        "checkpointed",
        "checkpointed",
        "restoring",
        "locked",
        "unlocking",
        "running",
    ]
    assert {(pid, name) for pid, name, _ in full.records} == {(7, "p7")}


async def test_progress_names_phases_and_states() -> None:
    """Who watches sees how many are moved and where each one is."""
    full = ground(7, 8)
    await full.mover.find()

    await full.group.freeze()

    assert (Phase.LOCK, "lock 2 processes") in [(n.phase, n.message) for n in full.updates]
    assert (Phase.FREEZE, "checkpoint 2 processes") in [(n.phase, n.message) for n in full.updates]
    assert {(n.pid, n.pid_state) for n in full.updates if n.pid} >= {(7, FROZEN), (8, FROZEN)}


async def test_a_process_that_was_frozen_before_stays_so() -> None:
    """What somebody froze is not locked again; a locked one is only frozen."""
    full = Ground(FakeGuest([Cuda(7, state=FROZEN), Cuda(8, state=LOCKED), Cuda(9)]))
    full.table.adopt([CudaProcess(pid=7)])
    await full.mover.refresh()
    await full.mover.find()

    await full.group.freeze()

    assert full.guest.verbs() == ["lock", "checkpoint", "checkpoint"]
    assert full.guest.states == [FROZEN] * 3


async def test_one_that_appears_between_lock_and_freeze_is_caught() -> None:
    """Started while the others were being locked, it is locked before anything is frozen."""
    full = ground(7, 8)
    await full.mover.find()
    full.guest.faults["lock", 8] = Fault(deed=full.guest.appears(20))

    await full.group.freeze()

    assert full.guest.verbs() == ["lock"] * 3 + ["checkpoint"] * 3
    assert full.guest.state(20) is FROZEN
    assert full.table.known[20].name == "late"


async def test_one_that_appears_during_the_freeze_is_caught() -> None:
    """A look after the freeze finds it: the save begins when none is left running."""
    full = ground(7, 8)
    await full.mover.find()
    full.guest.faults["checkpoint", 7] = Fault(deed=full.guest.appears(20))

    await full.group.freeze()

    assert full.guest.states == [FROZEN] * 3
    assert full.guest.verbs()[-2:] == ["lock", "checkpoint"]


async def test_a_container_that_never_settles_is_refused() -> None:
    """Processes that come faster than they freeze end in an error, not in a loop."""
    full = ground(7)
    await full.mover.find()
    pids = iter(range(1000, 10_000))

    def another() -> None:
        pid = next(pids)
        full.guest.processes.append(Cuda(pid))
        full.guest.faults["checkpoint", pid] = Fault(deed=another)

    full.guest.faults["checkpoint", 7] = Fault(deed=another)

    with pytest.raises(CudaError, match="keep appearing"):
        await full.group.freeze()


@pytest.mark.parametrize("verb", GONE_BEFORE)
@pytest.mark.parametrize("number", (7, 8, 9))
async def test_one_that_exits_meanwhile_is_no_error(verb: str, number: int) -> None:
    """Whichever process ends, and at whichever step: the others go on as if it had not been."""
    full = ground(7, 8, 9)
    await full.mover.find()
    full.guest.faults[verb, number] = Fault(deed=full.guest.gone(number))

    await full.group.freeze()
    await full.group.thaw()

    left = {7, 8, 9} - {number}
    assert set(full.table.known) == left
    assert full.group.running()
    assert full.guest.states == [RUNNING] * 2
    assert (number, "", "gone") in full.records


async def test_one_of_three_cannot_be_locked() -> None:
    """Then nothing is frozen at all, and undoing it brings every one back."""
    full = ground(7, 8, 9)
    await full.mover.find()
    full.guest.faults["lock", 8] = Fault(answer=failed("operation not supported"))

    with pytest.raises(CudaError, match=r"could not lock process 8 \(p8\)") as caught:
        await full.group.freeze()
    assert caught.value.pid == 8
    assert "checkpoint" not in full.guest.verbs()

    await full.group.thaw()
    assert full.guest.states == [RUNNING] * 3
    assert "restore" not in full.guest.verbs()


async def test_the_second_of_three_cannot_be_frozen() -> None:
    """The others are brought back from where they are."""
    full = ground(7, 8, 9)
    await full.mover.find()
    full.guest.faults["checkpoint", 8] = Fault(answer=failed("unspecified launch failure"))

    with pytest.raises(CudaError, match=r"could not checkpoint process 8 \(p8\).*it was locked"):
        await full.group.freeze()

    await full.group.thaw()
    assert full.guest.states == [RUNNING] * 3
    assert full.guest.verbs().count("restore") == 2


async def test_a_lock_that_hangs_names_the_process_and_its_state() -> None:
    """A deadline says who held it up."""
    full = ground(7, 8, timeouts=Timeouts(detect=5, lock=0.02, thaw=5))
    full.version = "555.42.02"
    full.__post_init__()
    await full.mover.find()
    full.guest.faults["lock", 8] = Fault(hang=True)

    with pytest.raises(DeadlineExceeded, match=r"lock on process 8 \(p8\).*it was running"):
        await full.group.freeze()
    assert full.guest.state(7) is LOCKED

    await full.group.thaw()
    assert full.guest.states == [RUNNING] * 2


async def test_a_failed_process_is_refused_before_anything_is_touched() -> None:
    """The driver has given it up: nothing leads out of that, and the others are left alone."""
    full = Ground(FakeGuest([Cuda(7, "p7"), Cuda(8, "p8", state=CudaState.FAILED)]))
    await full.mover.find()

    with pytest.raises(CudaError, match="8 failed"):
        await full.group.freeze()
    assert full.guest.verbs() == []


@pytest.mark.parametrize(
    ("verb", "lie"),
    (("lock", RUNNING), ("checkpoint", LOCKED), ("checkpoint", CudaState.FAILED)),
)
async def test_a_tool_that_lies_is_found_out(verb: str, lie: CudaState) -> None:
    """Every move is read back: exit status 0 alone is not believed."""
    full = ground(7, 8)
    await full.mover.find()
    full.guest.faults[verb, 8] = Fault(lie=lie)

    with pytest.raises(CudaError, match=rf"^process 8 \(p8\) is {lie} after {verb}, not \w+$"):
        await full.group.freeze()


async def test_one_that_stops_answering_is_an_error() -> None:
    """A process that is there but has no state any more is not taken for one that exited."""
    full = ground(7, 8)
    await full.mover.find()
    full.guest.faults["get-state", 8] = Fault(answer=failed("initialization error"))

    with pytest.raises(CudaError, match=r"^process 8 \(p8\) no longer answers cuda-checkpoint$"):
        await full.group.freeze()


# -- thawing -------------------------------------------------------------------------------------


async def test_one_that_cannot_be_brought_back_does_not_stop_the_others() -> None:
    """All that can run again do; the error reports the one that cannot."""
    full = ground(7, 8, 9)
    await full.mover.find()
    await full.group.freeze()
    full.guest.faults["restore", 8] = Fault(answer=failed("out of memory"), times=99)

    with pytest.raises(ResourceExhausted, match=r"process 8 \(p8\): out of memory"):
        await full.group.thaw()

    assert full.guest.states == [RUNNING, FROZEN, RUNNING]
    assert not full.group.running()


async def test_one_whose_state_cannot_be_read_does_not_stop_the_others() -> None:
    """Reading comes first, but what cannot be read is still tried from where it was last seen."""
    full = ground(7, 8)
    await full.mover.find()
    await full.group.freeze()
    full.guest.faults["get-state", 8] = Fault(answer=failed("", 127))

    with pytest.raises(CudaError, match="cannot be run"):
        await full.group.thaw()

    assert full.guest.states == [RUNNING, RUNNING]


async def test_a_failed_process_is_reported_in_the_thaw() -> None:
    """It cannot be brought back, and that is not passed over in silence."""
    full = Ground(FakeGuest([Cuda(7, state=FROZEN), Cuda(8, state=CudaState.FAILED)]))
    full.table.adopt([CudaProcess(pid=7, name="a"), CudaProcess(pid=8, name="b")])

    with pytest.raises(CudaError, match=r"process 8 \(b\) is failed"):
        await full.group.thaw()
    assert full.guest.state(7) is RUNNING


@given(
    states=st.lists(st.sampled_from((RUNNING, LOCKED, FROZEN)), min_size=1, max_size=6),
    faults=st.dictionaries(
        st.tuples(
            st.sampled_from(("lock", "checkpoint", "restore", "unlock", "get-state")),
            st.integers(2, 7),
        ),
        st.sampled_from((failed("no"), failed("out of memory"), failed("", 137))),
        max_size=4,
    ),
)
@settings(max_examples=60, deadline=None)
async def test_from_any_state_every_process_comes_back(
    states: list[CudaState], faults: dict[tuple[str, int], object]
) -> None:
    """After any failure of a freeze, a thaw without new faults has every process running."""
    full = Ground(FakeGuest([Cuda(pid, state=s) for pid, s in enumerate(states, 2)]))
    full.table.adopt([CudaProcess(pid=process.pid) for process in full.guest.processes])
    await full.mover.refresh()
    for key, answer in faults.items():
        full.guest.faults[key] = Fault(answer=answer)  # type: ignore[arg-type]

    try:
        await full.group.freeze()
    except CryoError:
        pass
    else:
        assert set(full.guest.states) == {FROZEN}
    full.guest.faults.clear()
    await full.group.thaw()

    assert set(full.guest.states) == {RUNNING}
    assert full.group.running()


# -- errors on the way ---------------------------------------------------------------------------


async def test_a_runsc_that_fails_is_a_plain_error() -> None:
    """A failing `runsc ps` in the middle of a move comes out as what it is."""
    full = ground(7, 8)
    await full.mover.find()
    full.guest.faults["lock", 8] = Fault(answer=failed("no"))

    async def ps() -> list[GuestProcess]:
        raise RunscError("ps", 128, "boom")

    full.guest.ps = ps  # type: ignore[method-assign]

    with pytest.raises(RunscError, match="runsc ps failed: boom") as caught:
        await full.group.freeze()
    assert caught.value.status == 128


@pytest.fixture
def full_disk(tmp_path: Path) -> Iterator[Callable[[int, str, str], None]]:
    """Give the record of a real journal that can no longer be written."""
    journal = Journal(tmp_path)
    journal.open(Operation.CHECKPOINT, "/image")

    def fail(point: str) -> None:
        if point == "journal.note:before":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    failpoints.arm(fail)
    yield journal.process
    failpoints.arm(None)


async def test_nothing_is_frozen_that_cannot_be_written_down(
    full_disk: Callable[[int, str, str], None],
) -> None:
    """Without a journal a crash would leave a process frozen: then none is touched."""
    full = ground(7, 8)
    await full.mover.find()
    full.table._record = full_disk

    with pytest.raises(ResourceExhausted, match=r"journal\.json: No space left on device"):
        await full.group.freeze()
    assert full.guest.verbs() == []


async def test_a_full_disk_does_not_keep_a_process_frozen(
    full_disk: Callable[[int, str, str], None],
) -> None:
    """On the way back the journal is written where it can be."""
    full = ground(7, 8)
    await full.mover.find()
    await full.group.freeze()
    full.table._record = full_disk

    await full.group.thaw()

    assert full.guest.states == [RUNNING] * 2


@pytest.mark.parametrize("verb", ("lock", "checkpoint", "get-state"))
async def test_cancelling_ends_every_tool(verb: str) -> None:
    """Nothing goes on in the background when the caller has left."""
    full = ground(7, 8, 9)
    await full.mover.find()
    for pid in (7, 8, 9):
        full.guest.faults[verb, pid] = Fault(hang=True)
    work = asyncio.create_task(full.group.freeze())
    await asyncio.wait_for(full.guest.hanging.wait(), 60)

    work.cancel()
    with pytest.raises(asyncio.CancelledError):
        await work

    assert full.guest.running_now == 0
