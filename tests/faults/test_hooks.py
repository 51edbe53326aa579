"""The sidecar is killed before and after each hook of a container, and restarted."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.faults import trap
from tests.faults.cases import NEW_BUILTIN, OLD_PHASED, on
from tests.faults.judge import COPY, TASK
from tests.faults.rig import Rig
from tests.faults.trap import Deed, Trap

pytestmark = pytest.mark.timeout(600)

LOG = "/tmp/hooks"
HOOKS = {
    f"io.cryo.hook.{kind}": f"exec /bin/sh -c 'echo {kind} >> {LOG}'"
    for kind in ("pre-freeze", "post-thaw", "post-restore")
}
# Where it is killed in a checkpoint, and what has run after the next one has recovered.
POINTS = {
    "hook.pre-freeze:before": ["post-thaw"],
    "hook.pre-freeze:after": ["pre-freeze", "post-thaw"],
    "hook.post-thaw:before": ["pre-freeze", "post-thaw"],
    "hook.post-thaw:after": ["pre-freeze", "post-thaw", "post-thaw"],
}


@pytest.fixture
def hooked(rig: Rig) -> Iterator[Rig]:
    """Give the machine with a task that has hooks."""
    rig.annotations = HOOKS
    try:
        rig.renew()
        yield rig
    finally:
        rig.annotations = {}
        trap.remove(rig.sim.trap_file)
        rig.remove(TASK)  # the next test gets one without hooks


def killed_at(rig: Rig, point: str) -> None:
    """Kill the sidecar, which reaches this point in the background, and start the next one."""
    rig.until_halted()
    rig.crash()
    assert trap.hit_of(rig.sim.trap_file).exists(), point
    rig.serve_again()


def ran(rig: Rig, name: str) -> list[str]:
    """Return the hooks that have run in a container since the last call."""
    found = rig.inside.exec(name, ["/bin/sh", "-c", f"cat {LOG}; rm {LOG}"])
    return found.out.split()


@on(NEW_BUILTIN, OLD_PHASED)
def test_a_checkpoint_loses_its_sidecar_at_a_hook(hooked: Rig) -> None:
    """Nothing stays frozen, no image is left, and post-thaw undoes what pre-freeze has begun."""
    for point, wanted in POINTS.items():
        image = hooked.new_image()
        trap.put(hooked.sim.trap_file, Trap(deed=Deed.HALT, point=point))
        hooked.begin(image)

        killed_at(hooked, point)

        hooked.assert_unharmed(saved=False)
        assert ran(hooked, TASK) == wanted, point
        assert not image.exists()


@on(NEW_BUILTIN, OLD_PHASED)
def test_a_restore_loses_its_sidecar_at_a_hook(hooked: Rig) -> None:
    """The copy is gone, and the image can be restored again, with its hook."""
    image = hooked.new_image()
    hooked.checkpoint(image)
    for side in ("before", "after"):
        trap.put(hooked.sim.trap_file, Trap(deed=Deed.HALT, point=f"hook.post-restore:{side}"))
        hooked.begin_restore(image)

        killed_at(hooked, side)

        hooked.assert_unharmed(saved=False)
    hooked.restore(image)
    assert ran(hooked, COPY) == ["pre-freeze", "post-restore"]
    hooked.remove(COPY)
