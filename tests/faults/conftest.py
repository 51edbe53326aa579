"""Fixtures of the fault tests: the machine of a case, and its running task."""

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
    """Skip these tests if we are not root, or fail them in CI."""
    if os.geteuid() != 0:
        excuse("real tests need root")


@pytest.fixture(scope="session")
def machine(request: pytest.FixtureRequest, require_root: None) -> Iterator[Rig]:
    """Yield the machine of a case; see `tests.faults.cases`."""
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
    """Yield that machine with its task running and no fault armed."""
    machine.serve()
    machine.have_task()
    before = machine.sim.sidecar_log.stat().st_size
    yield machine
    # Shown when the test fails.
    sys.stdout.write(machine.sim.sidecar_log.read_text("utf-8", "replace")[before:])
    machine.repair()
