"""`cryo doctor` sees an operation of a dead sidecar, and rolls it back on request."""

from __future__ import annotations

import sys

import msgspec
import pytest

from shim.doctor.report import Report
from shim.finding import Area, Finding, Level
from shim.simgpu.simulation import environment
from shim.state import TaskState
from tests.faults.cases import NEW_BUILTIN, OLD_PHASED, on
from tests.faults.judge import TASK
from tests.faults.rig import Rig

pytestmark = pytest.mark.timeout(600)


def doctor(rig: Rig, *more: str) -> Report:
    """Run `cryo doctor` on the machine, whose GPU is simulated."""
    argv = [sys.executable, "-m", "shim.entry.cli", "--output", "json", "doctor", *more]
    argv += ["--config", str(rig.sim.write_config())]
    ran = rig.sim.remote.run(argv, env=environment(), timeout_s=120)
    return msgspec.json.decode(ran.out, type=Report)


def journals(report: Report) -> Finding:
    """Return what it says of the journals."""
    (one,) = (one for one in report.findings if one.subject == "journals")
    return one


@on(NEW_BUILTIN, OLD_PHASED)
def test_an_interrupted_checkpoint(rig: Rig) -> None:
    """It is not one while the sidecar lives; after its death it is a failure, until repaired."""
    image = rig.new_image()
    rig.halt_at(phase="save")
    rig.begin(image)
    rig.until_halted()
    under_way = doctor(rig)
    rig.crash()
    before = doctor(rig)
    after = doctor(rig, "--repair")

    assert (journals(under_way).level, journals(under_way).text) == (
        Level.OK,
        "a sidecar owns the tasks",
    )
    assert journals(before).level is Level.FAILURE
    assert f"task {TASK}: its checkpoint was interrupted" in journals(before).text
    assert "--repair" in journals(before).remedy
    assert journals(after).level is Level.OK
    assert any(f"its image {image} is removed" in line for line in after.repaired)
    left = [one for one in after.findings if one.area is Area.LEFTOVERS]
    assert {one.level for one in left} == {Level.OK}
    assert rig.sim.verify(rig.inside, TASK).intact
    rig.serve_again()
    rig.assert_unharmed(TaskState.RUNNING)
