"""Driver 550: the same four moves, made of toggles and of looks."""

from __future__ import annotations

import pytest

from shim.cuda.moves import Action
from shim.cuda.toggle import ToggleTool
from shim.errors import CudaError, DeadlineExceeded, ResourceExhausted
from shim.model import CudaState
from tests.unit.fakes_guest import TOOL, Cuda, FakeGuest, Fault, failed


async def test_the_cycle_toggles_twice() -> None:
    """Down and up again is two toggles; lock and unlock exist only in our books."""
    guest = FakeGuest([Cuda(7)])
    tool = ToggleTool(guest, TOOL)
    seen = []

    for action in (Action.LOCK, Action.CHECKPOINT, Action.RESTORE, Action.UNLOCK):
        await tool.act(action, 7, timeout_s=1)
        seen.append((await tool.state(7, timeout_s=1), guest.state(7)))

    assert seen == [
        (CudaState.LOCKED, CudaState.RUNNING),
        (CudaState.CHECKPOINTED, CudaState.CHECKPOINTED),
        (CudaState.LOCKED, CudaState.RUNNING),
        (CudaState.RUNNING, CudaState.RUNNING),
    ]
    assert guest.calls == [[TOOL, "--toggle", "--pid", "7"]] * 2


async def test_a_process_that_was_never_moved_is_looked_at() -> None:
    """The driver's own thread distinguishes a CUDA process from an NVML user."""
    guest = FakeGuest([Cuda(7), Cuda(8, state=None)])
    tool = ToggleTool(guest, TOOL)

    assert await tool.state(7, timeout_s=1) is CudaState.RUNNING
    assert await tool.state(8, timeout_s=1) is None
    assert await tool.state(99, timeout_s=1) is None


async def test_a_recorded_process_without_devices_is_frozen() -> None:
    """After a restore, or a crash of ours, only the journal or manifest knows who was frozen."""
    guest = FakeGuest([Cuda(7, state=CudaState.CHECKPOINTED)])

    known = ToggleTool(guest, TOOL, frozenset({7, 8}))
    assert await known.state(7, timeout_s=1) is CudaState.CHECKPOINTED
    assert await known.state(8, timeout_s=1) is None, "it is gone"
    assert await ToggleTool(guest, TOOL).state(7, timeout_s=1) is None


async def test_a_failed_toggle_is_not_booked() -> None:
    """What did not happen is not written down, so it is not undone by another toggle."""
    guest = FakeGuest([Cuda(7)])
    guest.faults["toggle", 7] = Fault(answer=failed("operation not supported"))
    tool = ToggleTool(guest, TOOL)
    await tool.act(Action.LOCK, 7, timeout_s=1)

    with pytest.raises(CudaError, match="could not checkpoint process 7: operation not supported"):
        await tool.act(Action.CHECKPOINT, 7, timeout_s=1)

    assert await tool.state(7, timeout_s=1) is CudaState.RUNNING
    assert guest.state(7) is CudaState.RUNNING


async def test_after_a_toggle_without_an_answer_the_devices_decide() -> None:
    """A tool that was ended at its deadline may have frozen the process all the same."""
    guest = FakeGuest([Cuda(7)])

    def done_all_the_same() -> None:
        guest.processes[0].state = CudaState.CHECKPOINTED

    guest.faults["toggle", 7] = Fault(hang=True, deed=done_all_the_same)
    tool = ToggleTool(guest, TOOL)
    await tool.act(Action.LOCK, 7, timeout_s=1)

    with pytest.raises(DeadlineExceeded):
        await tool.act(Action.CHECKPOINT, 7, timeout_s=0.01)

    assert await tool.state(7, timeout_s=1) is CudaState.CHECKPOINTED


async def test_no_gpu_memory_is_a_class_of_its_own() -> None:
    """As with the newer tool."""
    guest = FakeGuest([Cuda(7, state=CudaState.CHECKPOINTED)])
    guest.faults["toggle", 7] = Fault(answer=failed("out of memory"))

    with pytest.raises(ResourceExhausted):
        await ToggleTool(guest, TOOL).act(Action.RESTORE, 7, timeout_s=1)


async def test_a_toggle_that_hangs() -> None:
    """There is no lock timeout on 550, and the error says so."""
    guest = FakeGuest([Cuda(7)])
    guest.faults["toggle", 7] = Fault(hang=True)

    with pytest.raises(DeadlineExceeded, match="toggle on process 7") as caught:
        await ToggleTool(guest, TOOL).act(Action.CHECKPOINT, 7, timeout_s=0.01)
    assert "570" in caught.value.remedy
