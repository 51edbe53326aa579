"""The sidecar is killed at every step, and restarted."""

from __future__ import annotations

import itertools
import signal
from typing import Any

import pytest

from shim.errors import CryoError
from shim.model import EngineName, Verify
from shim.state import TaskState
from tests.faults.cases import (
    ALL,
    on,
    spread,
)
from tests.faults.machine import Case
from tests.faults.rig import Rig

pytestmark = pytest.mark.timeout(600)

# Where it is killed, and whether the image is complete by then.
FAILPOINTS: dict[str, tuple[dict[str, Any], bool]] = {
    "preflight": ({"phase": "preflight"}, False),
    "lock": ({"move": "locking"}, False),
    "freeze": ({"move": "checkpointing"}, False),
    "frozen": ({"phase": "save"}, False),
    "save": ({"saving": True}, False),
    "thaw": ({"phase": "thaw"}, False),
    "seal": ({"phase": "seal"}, False),
    "commit": ({"phase": "commit"}, False),
    "named": ({"committed": True, "before": True}, True),
    "committed": ({"committed": True}, True),
    "stop": ({"phase": "stop"}, True),
}
# With a batch: before it, and after it when the journal has only its first step.
OF_BATCHES: dict[str, dict[str, Any]] = {
    "lock": {"move": "freezing"},
    "freeze": {"move": "locked"},
}


def _happens(case: Case, name: str, *, exit_: bool) -> bool:
    """Whether this moment exists."""
    if name in ("lock", "freeze") and case.engine is EngineName.BUILTIN:
        return False
    return name not in ("thaw", "stop") or exit_ is (name == "stop")


def _moments() -> list[Any]:
    ways = [(case, name, exit_) for case in ALL for name in FAILPOINTS for exit_ in (False, True)]
    # Without a complete image the task runs on, whichever of the two was asked for.
    return [
        pytest.param(
            case,
            name,
            exit_,
            id=f"{name}-{'exit' if exit_ else 'run-on'}-{case}",
            marks=pytest.mark.long if exit_ and not FAILPOINTS[name][1] else (),
        )
        for case, name, exit_ in ways
        if _happens(case, name, exit_=exit_)
    ]


@pytest.mark.parametrize(
    ("machine", "name", "exit_"), _moments(), indirect=("machine",), scope="session"
)
def test_the_sidecar_is_killed(rig: Rig, name: str, exit_: bool) -> None:
    """After a restart the task runs, or is stopped with a complete image."""
    point, complete = FAILPOINTS[name]
    if rig.case.batches:
        point = OF_BATCHES.get(name, point)
    image = rig.new_image()
    rig.halt_at(**point)
    rig.begin(image, exit=exit_)
    rig.until_halted()

    rig.crash()
    rig.serve_again()

    if complete and exit_:
        rig.assert_stopped_with(image)
        return
    rig.assert_unharmed(saved=rig.thorough or name == "save")
    if complete:
        rig.assert_restores(image)
    else:
        assert not image.exists()


@on(*ALL)
def test_a_restore_loses_its_sidecar(rig: Rig) -> None:
    """If the sidecar is killed at any step of a restore, the next one removes the copy."""
    image = rig.new_image()
    rig.checkpoint(image)
    for phase in ("verify", "load", "thaw"):
        rig.halt_at(operation="restore", phase=phase)
        rig.begin_restore(image)
        rig.until_halted()

        rig.crash()
        rig.serve_again()

        rig.assert_unharmed(saved=False)
    rig.assert_restores(image)


@spread("phase", ("preflight", "save"))
def test_the_sidecar_is_asked_to_stop(rig: Rig, phase: str) -> None:
    """SIGTERM lets a checkpoint finish: its image is complete, and the next sidecar continues."""
    image = rig.new_image()
    rig.halt_at(phase=phase)
    future = rig.begin(image)
    rig.until_halted()

    pid = rig.sim.sidecar_pid
    rig.sim.remote.kill(pid, signal.SIGTERM)
    rig.resume()

    assert rig.sim.remote.wait(pid, 60) == 0
    assert future.result(150).image_path == str(image)
    rig.serve_again()
    rig.assert_unharmed(saved=False)
    rig.assert_restores(image)


@on(*ALL)
def test_the_sidecar_may_not_wait_for_long(rig: Rig) -> None:
    """After SIGTERM a checkpoint that exceeds `timeouts.shutdown` is rolled back."""
    rig.serve(shutdown=0.2)
    image = rig.new_image()
    rig.sim.faults(rig.slow())
    future = rig.begin(image)
    rig.sim.until_called("checkpoint")

    assert rig.sim.stop_sidecar(timeout_s=60) == 0

    assert isinstance(future.exception(150), CryoError)
    rig.sim.faults()
    rig.serve_again()
    rig.assert_unharmed(saved=False)
    assert not image.exists()


@on(*ALL)
def test_an_image_made_before_is_untouched(rig: Rig) -> None:
    """An image that was complete before a crash verifies after it."""
    image = rig.new_image()
    rig.checkpoint(image)
    rig.halt_at(saving=True)
    rig.begin(rig.new_image())
    rig.until_halted()

    rig.crash()
    rig.serve_again()

    assert rig.client.verify(str(image), Verify.FULL)["task"]
    rig.assert_unharmed(saved=False)
    rig.client.remove(str(image))


@pytest.mark.long
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("exit_", (False, True), ids=("run-on", "exit"))
@on(*ALL)
def test_every_write_of_the_journal(rig: Rig, exit_: bool) -> None:
    """If killed after any write, the task runs, or is stopped with a complete image."""
    for number in itertools.count(1):
        rig.have_task()
        image = rig.new_image()
        rig.halt_at(write=number)
        future = rig.begin(image, exit=exit_)
        if not rig.halted_before_the_end_of(future):
            return
        rig.crash()
        rig.serve_again()
        if rig.state() is TaskState.STOPPED:
            rig.assert_stopped_with(image)
        else:
            rig.assert_unharmed(saved=False)
