"""A few trials of `make faults CASE=new-containerd` with fixed plans."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import grpc
import pytest

from hack.tools.running import NotHere
from shim.simgpu.waiting import wait_until
from tests.builds import RunscBuild, excuse
from tests.containerd.api import Api
from tests.containerd.builds import LINES, find_containerd
from tests.faults import arming, trap
from tests.faults.cases import again
from tests.faults.contained import Contained, ContainedTrial, contained
from tests.faults.plan import Plan, Scene, What
from tests.faults.trap import Deed, Trap

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


@pytest.mark.long
def test_a_create_that_containerd_gives_up(bench: Contained) -> None:
    """A shim that hangs until containerd has dropped it removes its task then, and exits."""
    log = bench.cryo.log_path
    start = log.stat().st_size
    trap.put(bench.trap_file, Trap(deed=Deed.HALT, point="runsc.create:after", nth=1))
    with Api(bench.cryo, timeout_s=15.0) as api, pytest.raises(grpc.RpcError):
        bench.create(api)
    wait_until(lambda: b"failed to delete task" in log.read_bytes()[start:], "containerd", 60)
    trap.remove(bench.trap_file)

    (halted,) = arming.halted(bench.cryo)
    os.kill(halted, signal.SIGCONT)

    wait_until(lambda: not arming.shims(bench.cryo), "the end of the shim", 60)
    bench.clear()
    bench.assert_clean()
