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
# The shim is killed before and after each hook, and its container with it.
HOOKS = {
    f"io.cryo.hook.{kind}": "exec /bin/true" for kind in ("pre-freeze", "post-thaw", "post-restore")
}
AT_HOOKS = (
    (Scene.RUN_ON, "hook.pre-freeze:before"),
    (Scene.RUN_ON, "hook.pre-freeze:after"),
    (Scene.RUN_ON, "hook.post-thaw:before"),
    (Scene.RUN_ON, "hook.post-thaw:after"),
    (Scene.RESTORE, "hook.post-restore:before"),
    (Scene.RESTORE, "hook.post-restore:after"),
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


@pytest.fixture
def hooked(bench: Contained) -> Iterator[Contained]:
    """Yield it with containers that have hooks."""
    bench.annotations = HOOKS
    try:
        yield bench
    finally:
        bench.annotations = {}


@pytest.mark.parametrize(
    ("scene", "point"),
    [
        pytest.param(scene, point, id=point, marks=pytest.mark.long if repeats else ())
        for (scene, point), repeats in again(AT_HOOKS, lambda at: at[0])
    ],
)
def test_a_shim_that_is_killed_at_a_hook(hooked: Contained, scene: Scene, point: str) -> None:
    """Its container is gone, with its processes, its journal and the image that was being made."""
    trial = ContainedTrial(hooked, Plan(scene=scene, what=What.SHIM, point=point, nth=1))

    trial.run()

    assert trial.outcome == "gone"
