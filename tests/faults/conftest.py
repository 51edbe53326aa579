"""What every fault on a live task needs before it begins."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator

import pytest

from tests.builds import excuse
from tests.conftest import ready
from tests.faults.machine import Case, Halting
from tests.faults.rig import Rig


@pytest.fixture(scope="session", autouse=True)
def require_root() -> None:
    """Skip the room, or fail it in CI, where we are not root."""
    if os.geteuid() != 0:
        excuse("real tests need root")


@pytest.fixture(scope="session")
def machine(request: pytest.FixtureRequest, require_root: None) -> Iterator[Rig]:
    """Give the machine of a case; see `tests.faults.cases`."""
    case: Case = request.param
    build = ready(case.version)
    with Halting(build.path, helper=case.helper) as sim:
        rig = Rig(sim, case)
        rig.thorough = request.config.getoption("all")
        rig.mount_state()
        try:
            yield rig
        finally:
            rig.close()


@pytest.fixture
def rig(machine: Rig) -> Iterator[Rig]:
    """Give that machine with its task running and no fault armed."""
    machine.serve()
    machine.have_task()
    before = machine.sim.sidecar_log.stat().st_size
    yield machine
    # Shown when the test fails.
    sys.stdout.write(machine.sim.sidecar_log.read_text("utf-8", "replace")[before:])
    machine.repair()
