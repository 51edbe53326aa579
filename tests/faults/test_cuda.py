"""cuda-checkpoint fails, reports a false success, hangs, or is missing."""

from __future__ import annotations

import contextlib

import pytest

from shim.errors import CryoError, CudaError, DeadlineExceeded, Refused, RunscError
from shim.model import CheckpointOptions, CudaMode
from shim.simgpu.fault import Fault, Kind
from shim.simgpu.simulation import wait_until
from tests.faults.cases import (
    ALL,
    NEW_PHASED,
    PHASED,
    on,
    spread,
)
from tests.faults.judge import TASK
from tests.faults.rig import Rig

pytestmark = pytest.mark.timeout(600)


def pids_of(rig: Rig) -> list[int]:
    """Return the pids of the task's CUDA processes."""
    return rig.sim.status(rig.inside, TASK).pids


def refused(rig: Rig, *faults: Fault) -> CryoError:
    """Checkpoint with these faults; return the error, after disarming the faults."""
    rig.sim.faults(*faults)
    image = rig.new_image()
    with pytest.raises(CryoError) as caught:
        rig.checkpoint(image)
    rig.sim.faults()
    assert not image.exists()
    return caught.value


def _goes_past(rig: Rig) -> None:
    """Check that --cuda ignore skips our check; the old runsc then refuses open devices."""
    options = CheckpointOptions(image_path=str(rig.new_image()), cuda=CudaMode.IGNORE)
    with contextlib.ExitStack() as stack:
        if rig.case.version == "old":
            stack.enter_context(pytest.raises(RunscError))
        rig.client.checkpoint(TASK, options)


def names(error: CryoError, pid: int) -> bool:
    """Whether an error names a process by pid and name."""
    return f"{pid} (python" in error.message


@on(*PHASED)
def test_a_lock_that_is_not_given(rig: Rig) -> None:
    """If one of three processes is busy, the lock times out, and the error names that process."""
    rig.serve(lock=1.0)
    pid = pids_of(rig)[1]

    error = refused(rig, Fault(action="lock", kind=Kind.BUSY, pid=pid))

    assert isinstance(error, (CudaError, DeadlineExceeded))
    assert names(error, pid), error
    rig.assert_unharmed()


@on(NEW_PHASED)
def test_a_lock_that_an_old_driver_waits_for(rig: Rig) -> None:
    """Driver 555 has no lock timeout: ours kills the tool, and the error names the process."""
    rig.renew(driver=555)
    rig.serve(lock=1.0)
    pid = pids_of(rig)[1]

    error = refused(rig, Fault(action="lock", kind=Kind.BUSY, pid=pid))

    assert isinstance(error, DeadlineExceeded)
    assert names(error, pid), error
    rig.assert_unharmed()
    rig.renew(driver=570)


@on(*ALL)
def test_a_freeze_that_fails(rig: Rig) -> None:
    """If the freeze of the second of three fails, its error is returned and all are running."""
    error = refused(rig, Fault(action="checkpoint", kind=Kind.FAIL, nth=2, message="launch failed"))

    assert isinstance(error, CudaError)
    assert "launch failed" in error.message
    assert any(names(error, pid) for pid in pids_of(rig)), error
    rig.assert_unharmed()


@spread("action", ("lock", "checkpoint"), PHASED)
def test_a_tool_that_lies(rig: Rig, action: str) -> None:
    """A reported success without effect is detected before the save, and the process is named."""
    error = refused(rig, Fault(action=action, kind=Kind.WRONG_STATE, nth=2))

    assert isinstance(error, CudaError)
    assert f"after {action}" in error.message
    rig.assert_unharmed()


@pytest.mark.parametrize(
    "kind", (Kind.FAIL_AFTER, pytest.param(Kind.HANG_AFTER, marks=pytest.mark.long))
)
@spread("action", ("lock", "checkpoint"), PHASED)
def test_a_tool_that_does_it_and_fails(rig: Rig, action: str, kind: Kind) -> None:
    """A step that took effect but failed is rolled back as well, because the states are read."""
    rig.serve(lock=2.0, freeze=2.0)

    error = refused(rig, Fault(action=action, kind=kind, nth=2))

    assert any(names(error, pid) for pid in pids_of(rig)), error
    rig.assert_unharmed()


@spread("action", ("get-state", "lock", "checkpoint"))
def test_a_tool_that_hangs(rig: Rig, action: str) -> None:
    """It is killed in time, inside the container too, and the error names the process."""
    rig.serve(detect=3.0, lock=2.0, freeze=2.0)

    error = refused(rig, Fault(action=action, kind=Kind.HANG, nth=2))

    assert isinstance(error, (DeadlineExceeded, CudaError))
    assert any(names(error, pid) for pid in pids_of(rig)), error
    rig.assert_unharmed()


@on(*PHASED)
def test_a_rollback_that_hangs(rig: Rig) -> None:
    """It times out and names the process that is not thawed; the next sidecar thaws it."""
    rig.serve(rollback=3.0)
    first, _, third = pids_of(rig)
    hang = Fault(action="restore", kind=Kind.HANG, pid=first)
    rig.sim.faults(hang, Fault(action="checkpoint", kind=Kind.FAIL, pid=third))
    with pytest.raises(CryoError) as caught:
        rig.checkpoint(rig.new_image())

    assert "rollback failed" in caught.value.message
    assert names(caught.value, first), caught.value
    assert "is checkpointed" in caught.value.message
    assert rig.client.list()[0].warning
    rig.sim.faults()
    rig.crash()
    rig.serve_again()
    assert not rig.client.list()[0].warning
    rig.assert_unharmed()


@spread("action", ("unlock", "restore"))
def test_a_thaw_that_hangs(rig: Rig, action: str) -> None:
    """A tool that hangs after the save is killed, and the second try thaws."""
    rig.serve(thaw=3.0, freeze=3.0)
    rig.sim.faults(Fault(action=action, kind=Kind.HANG, nth=2))
    image = rig.new_image()

    rig.checkpoint(image)

    rig.sim.faults()
    rig.assert_unharmed(saved=False)
    rig.assert_restores(image)


@on(*ALL)
def test_a_thaw_that_fails_once(rig: Rig) -> None:
    """A thaw that fails is retried, and the saved image is good."""
    rig.sim.faults(Fault(action="restore", kind=Kind.FAIL, nth=2))
    image = rig.new_image()

    rig.checkpoint(image)

    rig.assert_unharmed(saved=False)
    rig.assert_restores(image)


@on(*ALL)
def test_no_memory_to_thaw(rig: Rig) -> None:
    """If a process cannot be thawed, the image is completed, and the error says so."""
    rig.sim.faults(Fault(action="restore", kind=Kind.OOM, nth=2))
    image = rig.new_image()

    with pytest.raises(CryoError) as caught:
        rig.checkpoint(image)

    assert "is complete" in caught.value.message, caught.value
    rig.sim.faults()
    assert rig.stagings() == []
    rig.remove(TASK)
    rig.assert_clean()
    rig.assert_restores(image)


@on(*ALL)
def test_no_memory_to_thaw_and_no_process_left(rig: Rig) -> None:
    """The image of a task that cannot be thawed is also completed if its caller disconnects."""
    # Every try fails: the first is cancelled with its caller, and may count without failing.
    rig.sim.faults(Fault(action="restore", kind=Kind.OOM))
    image = rig.new_image()
    rig.halt_at(phase="thaw")
    call = rig.call_checkpoint(image)
    rig.until_halted()

    call.leave()
    rig.resume()

    wait_until(lambda: bool(rig.client.list()[0].warning), "the warning", 60)
    assert "is complete" in rig.client.list()[0].warning
    rig.sim.faults()
    assert rig.stagings() == []
    rig.remove(TASK)
    rig.assert_clean()
    rig.assert_restores(image)


@on(*PHASED)
def test_no_memory_to_thaw_after_a_crash(rig: Rig) -> None:
    """The next sidecar does not remove a task that could not be thawed, and reports it."""
    rig.sim.faults(Fault(action="restore", kind=Kind.OOM, nth=2))
    rig.halt_at(phase="thaw")
    rig.begin(rig.new_image())
    rig.until_halted()

    rig.crash()
    rig.serve_again()

    assert "could not undo" in rig.client.list()[0].warning
    assert len(rig.stagings()) == 1
    rig.sim.faults()
    rig.remove(TASK)
    rig.sim.stop_sidecar()
    rig.serve_again()
    rig.assert_clean()


@on(*PHASED)
def test_a_process_that_ends_meanwhile(rig: Rig) -> None:
    """A process that exits while it is locked is not an error: the others are saved."""
    rig.sim.faults(Fault(action="lock", kind=Kind.DIE, nth=2))

    result = rig.checkpoint(rig.new_image())

    rig.sim.faults()
    assert len(result.processes) == 2
    assert len([p for p in rig.sim.verify(rig.inside, TASK).processes if p.intact]) == 2
    rig.remove(TASK)


@on(*ALL)
def test_no_tool_at_all(rig: Rig) -> None:
    """Without cuda-checkpoint a checkpoint fails with a remedy; --cuda ignore skips the check."""
    rig.remove(TASK)
    rig.sim.stop_sidecar()
    rig.sim.remove_tool()
    rig.serve_again()
    try:
        rig.have_task()
        error = refused(rig)
        assert isinstance(error, Refused)
        assert "--cuda ignore" in error.remedy
        assert rig.sim.calls() == []
        rig.assert_unharmed(saved=False)
        _goes_past(rig)
    finally:
        rig.remove(TASK)
        rig.sim.with_helper = rig.case.helper
        rig.sim.set_driver(rig.sim.driver)
        rig.sim.stop_sidecar()
        rig.serve_again()
