"""The caller disconnects: by a cancellation, a kill, or a deadline."""

from __future__ import annotations

import signal
from typing import Any

import pytest

from shim.api.cryo.v1.cryo_pb2 import CancelResponse
from shim.errors import Cancelled, CryoError, DeadlineExceeded
from shim.model import EngineName
from shim.simgpu.fault import Fault, Kind
from shim.simgpu.simulation import wait_until
from shim.state import TaskState
from tests.faults.cases import (
    ALL,
    on,
    pairs,
    spread,
)
from tests.faults.judge import COPY, TASK
from tests.faults.machine import Case
from tests.faults.rig import Rig

pytestmark = pytest.mark.timeout(600)

FAILPOINTS: dict[str, dict[str, Any]] = {
    "preflight": {"phase": "preflight"},
    "lock": {"move": "locking"},
    "freeze": {"move": "checkpointing"},
    "frozen": {"phase": "save"},
    "save": {"saving": True},
    "thaw": {"phase": "thaw"},
    "thawing": {"phase": "thaw", "move": "restoring"},
    "seal": {"phase": "seal"},
    "commit": {"phase": "commit"},
}
OF_BATCHES: dict[str, dict[str, Any]] = {
    "lock": {"move": "freezing"},
    "freeze": {"move": "locked"},
    "thawing": {"phase": "thaw", "move": "thawing"},
}
_PHASED = ("lock", "freeze", "thawing")


def _moments() -> list[tuple[Case, str]]:
    return [
        (case, name)
        for case in ALL
        for name in FAILPOINTS
        if not (name in _PHASED and case.engine is EngineName.BUILTIN)
    ]


def over(rig: Rig) -> None:
    """Wait until the operation, which has no caller any more, has ended."""
    wait_until(lambda: rig.state() is TaskState.RUNNING, "the rollback", 60)


@pairs("name", _moments())
def test_the_caller_leaves(rig: Rig, name: str) -> None:
    """If the caller cancels in any phase, the task is as before, and an image complete or gone."""
    image = rig.new_image()
    rig.halt_at(**((rig.case.batches and OF_BATCHES.get(name)) or FAILPOINTS[name]))
    call = rig.call_checkpoint(image)
    rig.until_halted()

    call.leave()
    rig.resume()

    over(rig)
    rig.assert_unharmed(saved=rig.thorough or name == "save")
    if name != "commit":
        assert not image.exists()


@on(*ALL)
def test_the_caller_leaves_before_the_end_of_the_task(rig: Rig) -> None:
    """If a checkpoint with --exit is cancelled before its commit, the task runs."""
    image = rig.new_image()
    rig.halt_at(phase="seal")
    call = rig.call_checkpoint(image, exit=True)
    rig.until_halted()

    call.leave()
    rig.resume()

    over(rig)
    rig.assert_unharmed(saved=False)
    assert not image.exists()


@on(*ALL)
@pytest.mark.parametrize("how", ("leaves", "is late"))
def test_the_caller_leaves_after_the_commit(rig: Rig, how: str) -> None:
    """If the image is complete, the task is stopped and the outcome is `completed`."""
    image = rig.new_image()
    rig.halt_at(phase="stop")
    call = rig.call_checkpoint(image, exit=True, timeout_s=8.0 if how == "is late" else None)
    rig.until_halted()

    if how == "leaves":
        call.leave()
    else:
        assert isinstance(call.error(), DeadlineExceeded)
    rig.resume()

    assert call.outcome() == CancelResponse.OUTCOME_COMPLETED
    rig.assert_stopped_with(image)


@on(*ALL)
def test_the_caller_of_a_paused_task_leaves(rig: Rig) -> None:
    """A task that was paused is paused again after the rollback."""
    rig.client.pause(TASK)
    image = rig.new_image()
    rig.halt_at(phase="save")
    call = rig.call_checkpoint(image)
    rig.until_halted()

    call.leave()
    rig.resume()

    wait_until(lambda: rig.state() is not TaskState.CHECKPOINTING, "the rollback", 60)
    rig.assert_unharmed(TaskState.PAUSED, saved=False)
    assert not image.exists()


@spread("phase", ("verify", "load", "thaw"))
def test_the_caller_of_a_restore_leaves(rig: Rig, phase: str) -> None:
    """A cancelled restore leaves nothing, and its image can be restored later."""
    image = rig.new_image()
    rig.checkpoint(image)
    rig.halt_at(operation="restore", phase=phase)
    call = rig.call_restore(image)
    rig.until_halted()

    call.leave()
    rig.resume()

    wait_until(lambda: len(rig.client.list()) == 1, "the rollback", 60)
    rig.assert_unharmed(saved=False)
    rig.assert_restores(image)


@spread("how", ("SIGINT", "SIGKILL"))
def test_the_command_line_ends(rig: Rig, how: str) -> None:
    """Ctrl-C and SIGKILL of `cryo tasks checkpoint` both roll back."""
    image = rig.new_image()
    rig.halt_at(phase="save")
    arguments = ("--image-path", str(image), "--engine", rig.case.engine)
    pid = rig.spawn_cryo("tasks", "checkpoint", *arguments, TASK)
    rig.until_halted()

    rig.sim.remote.kill(pid, signal.Signals[how])
    rig.resume()

    assert rig.sim.remote.wait(pid, 60) not in (None, 0)
    over(rig)
    rig.assert_unharmed(saved=False)
    assert not image.exists()


@spread("name", ("preflight", "save", "seal"))
def test_the_deadline_of_the_call_passes(rig: Rig, name: str) -> None:
    """GRPC's own deadline rolls back in any phase."""
    image = rig.new_image()
    rig.halt_at(**FAILPOINTS[name])
    call = rig.call_checkpoint(image, timeout_s=6.0)
    rig.until_halted()

    error = call.error()
    rig.resume()

    assert isinstance(error, DeadlineExceeded)
    over(rig)
    rig.assert_unharmed(saved=False)
    assert not image.exists()


@on(*ALL)
def test_a_deadline_with_a_name(rig: Rig) -> None:
    """Our deadline expires first, leaves time for the rollback, and its error names the phase."""
    rig.sim.faults(Fault(action="checkpoint", kind=Kind.SLOW, seconds=4.0, nth=2))

    with pytest.raises(DeadlineExceeded) as caught:
        rig.checkpoint(rig.new_image(), timeout_s=2.5)

    phases = ("preflight", "freeze", "save")
    assert any(f"in phase {phase}" in caught.value.message for phase in phases), caught.value
    rig.sim.faults()
    rig.assert_unharmed(saved=False)


@on(*ALL)
def test_a_second_cancellation(rig: Rig) -> None:
    """A second cancellation does not interrupt the rollback."""
    future = rig.begin(rig.new_image())
    rig.sim.until_called("checkpoint")
    rig.client.close()
    rig.reconnect()

    assert isinstance(future.exception(150), (Cancelled, CryoError, ValueError))
    over(rig)
    rig.assert_unharmed(saved=False)
    assert COPY not in {view.id for view in rig.client.list()}
