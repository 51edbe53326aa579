"""What the simulation must see when a step is left out: otherwise the other tests prove nothing."""

from __future__ import annotations

import pytest

from shim.errors import RunscError
from shim.model import CudaMode
from shim.simgpu import bundle
from tests.real.helpers_rig import Rig

pytestmark = pytest.mark.timeout(120)


@pytest.mark.every_combination
def test_omitted_freeze_is_caught(rig: Rig) -> None:
    """Without the freeze the old runsc refuses; on the new one both copies report their loss."""
    rig.workload("job", processes=2)

    if not rig.build.has_builtin:
        with pytest.raises(RunscError):
            rig.checkpoint("job", cuda=CudaMode.IGNORE)
        assert rig.client.images() == []
        assert rig.fine("job")
        return

    made = rig.checkpoint("job", cuda=CudaMode.IGNORE)
    rig.restore("copy", made.image_path)

    assert [w for w in made.warnings if "GPU state is neither saved nor protected" in w]
    for name in ("job", "copy"):
        assert not rig.sim.works(rig.guest, name)
        lost = rig.sim.verify(rig.guest, name)
        assert {loss.split(":")[0] for loss in lost.losses} == {f"process {p}" for p in lost.pids}


def test_omitted_thaw_leaves_the_workload_stuck(rig: Rig) -> None:
    """An image restored by plain runsc, without the thaw, makes no step until it is thawed."""
    pids = rig.workload("job", processes=2).pids
    made = rig.checkpoint("job", "phased", exit=True)
    spec = rig.client.inspect(made.image_path)["spec"]
    folder = bundle.write(rig.sim.folder / "bundles" / "plain", spec)
    box = rig.sim.sandbox()
    box.restore("plain", folder, rig.sim.folder / made.image_path)
    try:
        assert not rig.sim.works(box, "plain", timeout_s=1.0)
        found = rig.sim.verify(box, "plain")
        assert not found.intact
        assert [(p.state, p.stuck) for p in found.processes] == [("checkpointed", True)] * 2

        box.act("plain", "restore", pids)
        box.act("plain", "unlock", pids)
        assert rig.sim.works(box, "plain")
        assert rig.sim.verify(box, "plain").intact
    finally:
        box.delete("plain")
