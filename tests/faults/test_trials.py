"""A few trials of `make faults` with fixed plans, and the random choice of plans."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.cases import NEW_BUILTIN, NEW_PHASED, NEW_STEPS, OLD_PHASED, again, on
from tests.faults.parked import ParkTrial
from tests.faults.plan import Plan, Scene, What, choose
from tests.faults.rig import Rig
from tests.faults.trial import Trial

pytestmark = pytest.mark.timeout(600)

FIXED = (
    (NEW_STEPS, Scene.RUN_ON, What.ERROR, "cuda.checkpoint:after", 2),
    (NEW_PHASED, Scene.PAUSED, What.ERROR, "cuda.lock:after", 1),
    (NEW_PHASED, Scene.EXIT, What.KILL, "record.save:before", 1),
    (NEW_PHASED, Scene.STAGED, What.ERROR, "image.stage:before", 1),
    (NEW_BUILTIN, Scene.STAGED, What.ERROR, "image.copy:after", 2),
    (OLD_PHASED, Scene.STAGED, What.KILL, "image.copy:before", 2),
    (NEW_PHASED, Scene.STAGED, What.LEAVE, "image.copy:before", 2),
    (NEW_PHASED, Scene.STAGED, What.SANDBOX, "image.copy:after", 1),
    (NEW_BUILTIN, Scene.PAUSED, What.KILL, "runsc.resume:after", 1),
    (NEW_BUILTIN, Scene.RESTORE, What.STUCK, "runsc.restore:begun", 1),
    (OLD_PHASED, Scene.RESTORE, What.TOOL_FAILS, "unlock", 2),
    (NEW_PHASED, Scene.RESTORE, What.KILL, "event.create:before", 1),
    (NEW_PHASED, Scene.RESTORE, What.KILL, "journal.close:after", 1),
    (OLD_PHASED, Scene.RUN_ON, What.SANDBOX, "image.name:after", 1),
    (NEW_PHASED, Scene.EXIT, What.STARVED, "runsc.checkpoint:begun", 1),
    (NEW_PHASED, Scene.EXIT, What.LEAVE, "image.verify-cache:after", 1),
    (NEW_PHASED, Scene.RUN_ON, What.LEAVE, "image.name:before", 1),
    (NEW_PHASED, Scene.START, What.ERROR, "record.save:before", 3),
    (NEW_PHASED, Scene.START, What.KILL, "record.save:after", 3),
    (NEW_PHASED, Scene.RUN_ON, What.SUPERVISOR, "runsc.checkpoint:begun", 1),
    (NEW_PHASED, Scene.RESTORE, What.SUPERVISOR, "runsc.restore:begun", 1),
    (NEW_PHASED, Scene.RUN_ON, What.FROZEN, "image.begin:after", 1),
    (NEW_PHASED, Scene.RESTORE, What.FROZEN, "runsc.restore:before", 1),
)
REPEATED = (What.FROZEN, What.KILL, What.STUCK)
PARKED = (
    (Scene.PARK, What.KILL, "cuda.checkpoint:after", 1),
    (Scene.PARK, What.KILL, "runsc.pause:after", 1),
    (Scene.PARK, What.ERROR, "runsc.pause:after", 1),
    (Scene.UNPARK, What.KILL, "runsc.resume:after", 1),
    (Scene.UNPARK, What.TOOL_FAILS, "restore", 2),
    (Scene.UNPARK, What.GPU_FULL, "runsc.resume:after", 1),
    (Scene.SAVE_PARKED, What.KILL, "runsc.checkpoint:begun", 1),
    (Scene.SAVE_PARKED, What.KILL, "image.name:after", 1),
    (Scene.SAVE_PARKED, What.ERROR, "image.hash:before", 1),
    (Scene.SAVE_PARKED, What.RUNSC, "runsc.checkpoint:begun", 1),
)
TRACES = {scene: Counter({"journal.note:before": 3, "runsc.exec:begun": 2}) for scene in Scene}


@pytest.mark.parametrize(
    ("machine", "plan"),
    [
        pytest.param(
            case,
            Plan(scene=scene, what=what, point=point, nth=nth),
            id=f"{what}-at-{point}-{scene}-{case}".replace(" ", "-"),
            # One that is frozen times out after a minute and a half; test_crash.py has the kills of
            # the sidecar, and test_kill.py a runsc that hangs.
            marks=pytest.mark.long if what in REPEATED or repeats else (),
        )
        for (case, scene, what, point, nth), repeats in again(FIXED, lambda fixed: fixed[2])
    ],
    indirect=("machine",),
    scope="session",
)
def test_what_must_hold(rig: Rig, plan: Plan) -> None:
    """After this fault the task runs or has a complete image, and nothing is left."""
    base = rig.new_image()
    rig.checkpoint(base)
    trial = Trial(rig, plan, base)

    trial.run()

    assert "not reached" not in trial.outcome
    rig.client.remove(str(base))


@pytest.fixture
def parking(rig: Rig) -> Iterator[Rig]:
    """Yield that machine with a task that is parked when it is paused."""
    rig.parks = True
    rig.renew()
    yield rig
    rig.parks = False
    rig.renew()


@on(NEW_PHASED)
@pytest.mark.parametrize(
    "plan",
    [
        pytest.param(
            Plan(scene=scene, what=what, point=point, nth=nth),
            id=f"{what}-at-{point}-{scene}".replace(" ", "-"),
            marks=pytest.mark.long if (what, nth) == (What.ERROR, 1) or repeats else (),
        )
        for (scene, what, point, nth), repeats in again(PARKED, lambda parked: parked[:2])
    ],
)
def test_what_must_hold_of_a_parked_task(parking: Rig, plan: Plan) -> None:
    """After this fault the task is parked or runs, or is reported as lost."""
    trial = ParkTrial(parking, plan, Path())

    trial.run()

    assert "not reached" not in trial.outcome


@on(NEW_BUILTIN)
def test_a_trial_can_fail(rig: Rig) -> None:
    """If a checkpoint fails with a fault that should only delay it, the trial fails."""
    plan = Plan(scene=Scene.RUN_ON, what=What.SLOW, point="record.save:after", nth=1)
    trial = Trial(rig, plan, rig.sim.folder / "none")
    taken = rig.sim.folder / "images" / "trial"
    rig.sim.remote.run(["mkdir", "-p", str(taken)])
    try:
        with pytest.raises(AssertionError, match="trial"):
            trial.run()
    finally:
        rig.sim.remote.run(["rmdir", str(taken)])


def test_a_seed_replays() -> None:
    """The same seed makes the same choices, all of failpoints that exist; other seeds differ."""

    def chosen(seed: int) -> list[Plan]:
        return [choose(random.Random(f"{seed}:{number}"), TRACES) for number in range(50)]

    assert chosen(1) == chosen(1)
    assert chosen(1) != chosen(2)
    for plan in chosen(1):
        assert plan.nth <= max(3, TRACES[plan.scene][plan.point])
        assert Plan.parse(plan.line()) == plan
