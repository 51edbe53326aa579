"""A few trials of `make faults CASE=new-containerd` with fixed plans."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from hack.tools.running import NotHere
from tests.builds import RunscBuild, excuse
from tests.containerd.builds import LINES, find_containerd
from tests.faults.cases import again
from tests.faults.contained import Contained, ContainedTrial, contained
from tests.faults.plan import Plan, Scene, What

pytestmark = pytest.mark.timeout(300)

FIXED = (
    (Scene.RUN_ON, What.SHIM, "runsc.checkpoint:after", "gone"),
    (Scene.EXIT, What.SHIM, "image.name:after", "gone, and an image"),
    (Scene.RESTORE, What.SHIM, "record.save:before", "gone"),
    (Scene.EXIT, What.CONTAINERD, "image.verify-cache:before", "stopped, and an image"),
    (Scene.RUN_ON, What.CONTAINERD, "cuda.restore:after", "runs"),
    (Scene.RESTORE, What.CONTAINERD, "journal.close:after", "runs"),
    (Scene.RESTORE, What.CONTAINERD, "runsc.restore:begun", "stopped"),
    (Scene.RUN_ON, What.SHIM_HANGS, "runsc.checkpoint:begun", "runs, and an image"),
    (Scene.RUN_ON, What.SANDBOX, "journal.close:before", "stopped, and an image"),
)


@pytest.fixture(scope="module")
def bench(runsc_new: RunscBuild) -> Iterator[Contained]:
    """Yield a containerd whose shims read traps."""
    try:
        find_containerd(LINES[-1])
    except NotHere as no:
        excuse(str(no))
    with contained(runsc_new) as made:
        yield made


@pytest.mark.parametrize(
    ("scene", "what", "point", "outcome"),
    [
        pytest.param(
            *fixed,
            id=f"{what}-at-{point}-{scene}".replace(" ", "-"),
            marks=pytest.mark.long if repeats else (),
        )
        for fixed, repeats in again(FIXED, lambda fixed: fixed[1])
        for scene, what, point, _ in [fixed]
    ],
)
def test_what_must_hold(
    bench: Contained, scene: Scene, what: What, point: str, outcome: str
) -> None:
    """After this fault the task runs, has exited with its killed sandbox, or is in its image."""
    trial = ContainedTrial(bench, Plan(scene=scene, what=what, point=point, nth=1))

    trial.run()

    assert trial.outcome == outcome
