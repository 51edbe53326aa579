"""The sandbox or runsc is killed in the middle of a checkpoint or restore."""

from __future__ import annotations

import signal

import pytest

from shim.errors import CryoError, ResourceExhausted
from shim.model import Verify
from shim.simgpu.fault import Fault, Kind
from shim.simgpu.simulation import wait_until
from shim.state import TaskState
from tests.faults.cases import (
    ALL,
    NEW_BUILTIN,
    on,
    spread,
)
from tests.faults.judge import COPY, TASK
from tests.faults.rig import Rig

pytestmark = pytest.mark.timeout(600)


@spread("phase", ("preflight", "save", "seal", "commit"))
def test_the_sandbox_is_killed(rig: Rig, phase: str) -> None:
    """The task has an exit status; an image that was not yet saved is removed."""
    image = rig.new_image()
    rig.halt_at(phase=phase)
    future = rig.begin(image)
    rig.until_halted()

    [sandbox] = rig.sandboxes()
    rig.sim.remote.kill(sandbox, signal.SIGKILL)
    rig.resume()

    # An image that was saved before is completed.
    saved = phase in ("seal", "commit")
    assert (future.exception(150) is None) is saved
    wait_until(lambda: rig.state() is TaskState.STOPPED, "the end", 60)
    ended = rig.client.state(TASK).exit
    assert ended is not None
    assert ended.status == 128 + signal.SIGKILL
    rig.client.delete(TASK)
    rig.assert_clean()
    if saved:
        rig.assert_restores(image)
    assert not image.exists()


@on(*ALL)
def test_runsc_is_killed_in_the_save(rig: Rig) -> None:
    """If `runsc checkpoint` is killed, the checkpoint fails, though the sandbox may still write."""
    image = rig.new_image()
    rig.halt_at(saving=True)
    future = rig.begin(image)
    rig.until_halted()

    rig.sim.remote.kill(rig.journal()["save_pid"], signal.SIGKILL)
    rig.resume()

    assert isinstance(future.exception(150), CryoError)
    assert not image.exists()
    rig.assert_unharmed(saved=True)


@on(NEW_BUILTIN)
@pytest.mark.parametrize("crash", (False, True), ids=("rollback", "recovery"))
def test_a_save_that_goes_on_without_its_command(rig: Rig, crash: bool) -> None:
    """The rollback waits for the sandbox's own CUDA steps, which toggle the states."""
    rig.sim.faults(Fault(action="checkpoint", kind=Kind.SLOW, seconds=2.0))
    image = rig.new_image()
    future = rig.begin(image)
    rig.sim.until_called("checkpoint", 3)
    save = rig.journal()["save_pid"]
    if crash:
        rig.crash()
    rig.sim.remote.kill(save, signal.SIGKILL)
    if crash:
        rig.serve_again()

    assert isinstance(future.exception(150), CryoError)
    assert not image.exists()
    rig.sim.faults()
    rig.assert_unharmed(saved=False)


@on(*ALL)
def test_runsc_is_stopped_in_the_save(rig: Rig) -> None:
    """A save that exceeds its timeout fails."""
    rig.serve(save=2.0)
    image = rig.new_image()
    rig.halt_at(saving=True)
    future = rig.begin(image)
    rig.until_halted()

    rig.sim.remote.kill(rig.journal()["save_pid"], signal.SIGSTOP)
    rig.resume()

    error = future.exception(150)
    assert error is not None
    assert "did not end in 2 s" in str(error)
    assert not image.exists()
    rig.assert_unharmed(saved=False)


@on(NEW_BUILTIN)
def test_a_rollback_that_was_killed_between_its_pause_and_its_resume(rig: Rig) -> None:
    """The next sidecar resumes a sandbox that no caller has paused."""
    rig.halt_at(saving=True)
    rig.begin(rig.new_image())
    rig.until_halted()
    rig.crash()
    rig.until_saved()
    rig.inside.call("pause", TASK)

    rig.serve_again()

    rig.assert_unharmed()


@on(*ALL)
def test_a_crash_with_a_tool_under_way(rig: Rig) -> None:
    """A tool that outlives the sidecar is killed before its process is thawed."""
    rig.serve(detect=3.0, freeze=3.0)
    rig.sim.faults(Fault(action="checkpoint", kind=Kind.HANG, nth=2))
    rig.begin(rig.new_image())
    rig.sim.until_called("checkpoint", 2)

    rig.crash()
    rig.sim.faults()
    rig.serve_again()

    rig.assert_unharmed()


@on(*ALL)
def test_no_memory_at_restore(rig: Rig) -> None:
    """Without GPU memory the copy is removed, the error says why, and the image is unchanged."""
    image = rig.new_image()
    rig.checkpoint(image)
    used = rig.sim.device()["used_bytes"]
    rig.sim.limit(reserved_bytes=rig.sim.capacity_bytes - used)

    with pytest.raises(CryoError) as caught:
        rig.restore(image)

    assert isinstance(caught.value, ResourceExhausted), caught.value
    assert "out of memory" in caught.value.message
    assert "GPU memory" in caught.value.remedy
    rig.assert_clean(TASK)
    rig.sim.limit(reserved_bytes=0)
    assert rig.sim.device()["used_bytes"] == used
    assert rig.client.verify(str(image), Verify.FULL)["digest"]
    rig.assert_restores(image)


@spread("action", ("restore", "unlock"))
def test_a_restore_that_hangs(rig: Rig, action: str) -> None:
    """A tool that hangs makes the restore time out, and nothing is left."""
    rig.serve(thaw=3.0)
    image = rig.new_image()
    rig.checkpoint(image)
    rig.sim.faults(Fault(action=action, kind=Kind.HANG, task=f"{COPY}+", nth=2))

    with pytest.raises(CryoError) as caught:
        rig.restore(image)

    assert "3 s" in caught.value.message, caught.value
    rig.sim.faults()
    rig.assert_clean(TASK)
    rig.serve()
    rig.assert_restores(image)


@on(*ALL)
def test_the_sandbox_of_a_restore_is_killed(rig: Rig) -> None:
    """If the sandbox is killed in the restore, the call fails and the copy is removed."""
    image = rig.new_image()
    rig.checkpoint(image)
    before = set(rig.sandboxes())
    rig.halt_at(operation="restore", phase="thaw")
    future = rig.begin_restore(image)
    rig.until_halted()

    [copy] = set(rig.sandboxes()) - before
    rig.sim.remote.kill(copy, signal.SIGKILL)
    rig.resume()

    assert isinstance(future.exception(150), CryoError)
    rig.assert_clean(TASK)
    rig.assert_restores(image)
