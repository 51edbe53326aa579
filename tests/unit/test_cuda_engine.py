"""The two engines: what each does before, in, and after a save."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shim.config import Timeouts
from shim.cuda import driver
from shim.cuda.engine import Builtin, explain
from shim.cuda.group import CudaGroup
from shim.cuda.step_mover import StepMover
from shim.cuda.table import ProcessTable
from shim.cuda.tool import Tool
from shim.errors import (
    CudaError,
    DeadlineExceeded,
    IllegalState,
    ResourceExhausted,
    RunscError,
)
from shim.model import CudaProcess, CudaState
from shim.runsc.output import GuestProcess
from tests.unit.fakes_guest import TOOL, Cuda, FakeGuest, Fault, failed

RUNNING, LOCKED, FROZEN = CudaState.RUNNING, CudaState.LOCKED, CudaState.CHECKPOINTED
QUICK = Timeouts(detect=5, lock=5, freeze=0.02, thaw=5)


def phased(guest: FakeGuest, *, known: bool = True) -> CudaGroup:
    """Make the group of one guest, its processes already known as from a manifest."""
    tool = Tool(guest, TOOL, driver.capabilities("580.65.06"))
    table = ProcessTable(lambda _: None, lambda *_: None)
    if known:
        table.adopt([CudaProcess(pid=p.pid, name=p.name) for p in guest.processes])
    return CudaGroup([StepMover(table, guest, tool, QUICK)])


def builtin(guest: FakeGuest) -> Builtin:
    """Make runsc's own engine over a guest."""
    return Builtin(phased(guest), [guest], TOOL, QUICK)


async def test_phased_goes_all_the_way() -> None:
    """Down before the save, up after it; runsc gets no tool."""
    guest = FakeGuest([Cuda(7), Cuda(8)])
    engine = phased(guest, known=False)
    await engine.find()

    await engine.freeze()
    assert guest.states == [FROZEN, FROZEN]
    await engine.thaw()
    assert guest.states == [RUNNING, RUNNING]
    assert engine.save_path == ""


@pytest.mark.parametrize("state", (RUNNING, LOCKED, FROZEN))
async def test_phased_undoes_and_wakes_from_any_state(state: CudaState) -> None:
    """Whatever was reached: every process runs afterwards."""
    for way in ("undo", "wake"):
        guest = FakeGuest([Cuda(7, state=state)])
        engine = phased(guest)
        await (engine.undo() if way == "undo" else engine.thaw_restored(loaded=False))
        assert guest.states == [RUNNING]


async def test_phased_guards_nothing() -> None:
    """No tool runs inside its save; the guard lasts until it is called off."""
    guest = FakeGuest([Cuda(7)])
    guard = asyncio.create_task(phased(guest).guard())
    await asyncio.sleep(0.01)
    assert not guard.done()
    guard.cancel()
    await asyncio.gather(guard, return_exceptions=True)
    assert guest.ended == []


async def test_builtin_leaves_the_freeze_to_runsc() -> None:
    """It only looks; the tool's path goes with the save."""
    guest = FakeGuest([Cuda(7)])
    engine = builtin(guest)
    await engine._group.refresh()

    await engine.freeze()

    assert guest.verbs() == []
    assert engine.save_path == TOOL


@pytest.mark.parametrize("state", (LOCKED, FROZEN, CudaState.FAILED))
async def test_builtin_refuses_what_it_would_invert(state: CudaState) -> None:
    """Runsc toggles: a process that is frozen already would be woken in the middle of a save."""
    guest = FakeGuest([Cuda(7), Cuda(8, state=state)])
    engine = builtin(guest)
    await engine._group.refresh()

    with pytest.raises(IllegalState, match=f"8 is {state}") as caught:
        await engine.freeze()
    assert "phased" in caught.value.remedy


async def test_builtin_ends_a_tool_that_hangs() -> None:
    """Runsc has no deadline; the tool is the child without a parent that was not there before."""
    old = GuestProcess(pid=40, parent=0, command="shell")
    guest = FakeGuest([Cuda(7)], execs=(old,))
    engine = builtin(guest)
    guard = asyncio.create_task(engine.guard())
    await asyncio.sleep(0.005)
    guest.execs = (old, GuestProcess(pid=50, parent=0, command="cuda-checkpoint"))
    guest.processes.append(Cuda(51, parent=7))

    async with asyncio.timeout(60):
        while not guest.ended:  # noqa: ASYNC110 - the guard sets no event
            await asyncio.sleep(0.005)
    guard.cancel()
    await asyncio.gather(guard, return_exceptions=True)

    assert guest.ended == [50]
    assert engine.hung


async def test_each_tool_has_its_own_time() -> None:
    """One that began late in a long save is not ended for those that came before it."""
    guest = FakeGuest([Cuda(7)])
    engine = Builtin(phased(guest), [guest], TOOL, Timeouts(freeze=1.0))
    guard = asyncio.create_task(engine.guard(frozenset({1, 7})))
    for pid in range(50, 58):
        guest.execs = (GuestProcess(pid=pid, parent=0, command="cuda-checkpoint"),)
        await asyncio.sleep(0.2)
    guard.cancel()
    await asyncio.gather(guard, return_exceptions=True)

    assert guest.ended == []


async def test_a_save_in_time_ends_nothing() -> None:
    """The tool is given its time."""
    guest = FakeGuest([Cuda(7)])
    engine = Builtin(phased(guest), [guest], TOOL, Timeouts(freeze=30))
    guard = asyncio.create_task(engine.guard())
    await asyncio.sleep(0.01)
    guest.execs = (GuestProcess(pid=50, parent=0, command="cuda-checkpoint"),)
    await asyncio.sleep(0.01)
    guard.cancel()
    await asyncio.gather(guard, return_exceptions=True)

    assert guest.ended == []
    assert not engine.hung


async def test_builtin_settles_before_it_undoes() -> None:
    """What the sentry still owes is done first, else it would come later and invert."""
    guest = FakeGuest([Cuda(7, state=FROZEN)])
    order: list[str] = []

    async def settle() -> None:
        order.append("settle")
        assert guest.calls == []

    guest.settle = settle  # type: ignore[method-assign]

    await builtin(guest).undo()

    assert order == ["settle"]
    assert guest.states == [RUNNING]


async def test_builtin_reads_back_after_the_save() -> None:
    """A process that runsc left frozen is thawed by us."""
    guest = FakeGuest([Cuda(7), Cuda(8, state=FROZEN)])

    await builtin(guest).thaw()

    assert guest.states == [RUNNING, RUNNING]


async def test_builtin_reports_who_began_during_the_save() -> None:
    """Runsc looks once: a process that it did not see is in the image without its GPU state."""
    guest = FakeGuest([Cuda(7)])
    engine = builtin(guest)
    await engine._group.refresh()
    await engine.check()
    guest.appears(9)()

    with pytest.raises(CudaError, match=r"process 9 \(late\) began") as caught:
        await engine.check()
    assert caught.value.pid == 9
    assert "phased" in caught.value.remedy


async def test_builtin_waits_for_runscs_thaw(monkeypatch: pytest.MonkeyPatch) -> None:
    """With pages loading in the background, the processes wake some time after the restore."""
    monkeypatch.setattr("shim.cuda.engine._POLL_S", 0.005)
    guest = FakeGuest([Cuda(7, state=FROZEN)])
    waking = asyncio.create_task(builtin(guest).thaw_restored(loaded=False))
    await asyncio.sleep(0.02)
    assert not waking.done()

    guest.processes[0].state = RUNNING
    await asyncio.wait_for(waking, 60)

    assert guest.verbs() == [], "runsc's toggles are not ours"


async def test_a_process_that_runsc_did_not_thaw() -> None:
    """After runsc has said that it is done, a frozen process is an error that names it."""
    guest = FakeGuest([Cuda(7), Cuda(8, state=FROZEN)])

    with pytest.raises(CudaError, match=r"did not thaw process 8 \(train\)") as caught:
        await builtin(guest).thaw_restored(loaded=True)
    assert caught.value.pid == 8


async def test_a_process_that_cannot_be_asked() -> None:
    """Not to know is an error as well, not an endless wait."""
    guest = FakeGuest([Cuda(7)])
    guest.faults["get-state", 7] = Fault(answer=failed("", 127), times=9)

    with pytest.raises(CudaError, match="cannot be run"):
        await asyncio.wait_for(builtin(guest).thaw_restored(loaded=False), 60)


# -- runsc's words -------------------------------------------------------------------------------

FAILED = (
    'checkpoint failed: "cuda-checkpoint --toggle for PID 7 in container \\"a\\"" failed with '
    "exit status {}"
)


def test_a_failed_tool_is_a_cuda_error() -> None:
    """The process is named with what it is called."""
    error = RunscError("checkpoint", 128, FAILED.format(1))

    reported = explain(error, hung=False, timeout_s=5, known=[CudaProcess(pid=7, name="train")])

    assert isinstance(reported, CudaError)
    assert reported.pid == 7
    assert "process 7 (train)" in reported.message


def test_a_failed_tool_of_another_container() -> None:
    """Of several processes of that number, the one is meant whose container runsc names."""
    text = FAILED.format(1).replace('\\"a\\"', '\\"b+\\"')
    error = RunscError("checkpoint", 128, text)
    known = [CudaProcess(pid=7, name=f"p{c}", container=c) for c in ("", "a", "b", "bb")]

    reported = explain(error, hung=False, timeout_s=5, known=known)

    assert "process 7 (pb) of b:" in reported.message


async def test_the_guard_looks_into_every_container() -> None:
    """A tool that hangs is ended where it is."""
    first, second = FakeGuest([Cuda(7)]), FakeGuest([Cuda(7)])
    engine = Builtin(phased(first), [first, second], TOOL, QUICK)
    second.execs = (GuestProcess(pid=99, parent=0, command="cuda-checkpoint"),)

    with pytest.raises(TimeoutError):
        await asyncio.wait_for(engine.guard(frozenset({1})), 0.5)

    assert (first.ended, second.ended, engine.hung) == ([], [99], True)


def test_a_tool_that_we_ended_is_a_deadline() -> None:
    """A kill by us is reported as such."""
    error = RunscError("checkpoint", 128, FAILED.format(9))

    reported = explain(error, hung=True, timeout_s=5, known=[])

    assert isinstance(reported, DeadlineExceeded)
    assert "process 7 did not end in 5 s" in reported.message


def test_out_of_memory_is_a_class_of_its_own() -> None:
    """As with the other engine."""
    error = RunscError("wait", 128, FAILED.format(1) + ": Out Of Memory")

    assert isinstance(explain(error, hung=False, timeout_s=5, known=[]), ResourceExhausted)


def test_other_errors_stay_what_they_are() -> None:
    """A full disk is not the tool's fault, even when it had to be ended as well."""
    error = ResourceExhausted("runsc checkpoint: the disk is full")

    assert explain(error, hung=True, timeout_s=5, known=[]) is error


@given(text=st.text(max_size=60))
def test_any_words_are_explained(text: str) -> None:
    """Whatever stands where the number should be."""
    error = RunscError("checkpoint", 128, f"cuda-checkpoint for PID {text}")

    explain(error, hung=False, timeout_s=1, known=[CudaProcess(pid=1, name="x")])
    explain(RunscError("x", 1, "cuda-checkpoint for PID ²"), hung=True, timeout_s=1, known=[])
