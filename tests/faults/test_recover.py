"""`cryo recover` rolls back the operations of a dead sidecar, without starting another one."""

from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

from shim.simgpu.remote import Ran
from shim.simgpu.simulation import environment
from shim.state import TaskState
from tests.faults.cases import NEW_BUILTIN, OLD_PHASED, on
from tests.faults.judge import TASK
from tests.faults.rig import Rig

pytestmark = pytest.mark.timeout(600)


def recover(rig: Rig) -> Ran:
    """Run `cryo recover`."""
    argv = [sys.executable, "-m", "shim.entry.cli", "recover"]
    argv += ["--config", str(rig.sim.write_config())]
    return rig.sim.remote.run(argv, env=environment(), timeout_s=120)


@on(NEW_BUILTIN, OLD_PHASED)
def test_two_at_once(rig: Rig) -> None:
    """Of two, one recovers and prints what, the other does nothing; a third finds nothing."""
    image = rig.new_image()
    rig.halt_at(phase="save")
    rig.begin(image)
    rig.until_halted()
    rig.crash()

    with ThreadPoolExecutor(2) as pool:
        both = list(pool.map(lambda _: recover(rig), range(2)))

    reported = [ran.out for ran in both if ran.status == 0]
    assert any(f"its image {image} is removed" in out for out in reported), both
    for ran in both:
        assert ran.status == 0 or "another process owns the tasks" in ran.err, ran
    assert recover(rig).out == "nothing to recover\n"
    status = rig.sim.verify(rig.inside, TASK)
    assert status.intact
    assert {process.state for process in status.processes} == {"running"}
    assert rig.journals() == rig.stagings() == []
    rig.serve_again()
    rig.assert_unharmed(TaskState.RUNNING)


@on(NEW_BUILTIN)
def test_beside_a_sidecar(rig: Rig) -> None:
    """If a sidecar runs, the command fails and changes nothing."""
    ran = recover(rig)

    assert ran.status != 0
    assert "another process owns the tasks" in ran.err
    rig.assert_unharmed(saved=False)
