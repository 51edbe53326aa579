"""A runsc that is replaced while tasks run: they are as they were, and lost in no checkpoint."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

import pytest

from shim.errors import Refused
from shim.finding import Level
from shim.simgpu.fault import Fault, Kind
from shim.simgpu.simulation import wait_until
from shim.state import TaskState
from tests.builds import RunscBuild
from tests.conftest import ready
from tests.real.helpers_rig import WAIT_S, Background, Rig, machine_with, refused
from tests.real.test_examine import doctor, not_well

pytestmark = pytest.mark.timeout(240)


class Installed(NamedTuple):
    """A machine with a runsc of its own, and the other build that may take its place."""

    rig: Rig
    first: Path
    other: Path

    def replace(self, content: Path) -> None:
        """Put a copy of a file in the place of runsc, as a package does."""
        binary = self.rig.build.path
        fresh = binary.with_name("fresh")
        shutil.copy(content, fresh)
        fresh.replace(binary)


@pytest.fixture
def installed(runsc: RunscBuild) -> Iterator[Installed]:
    """Give a machine whose runsc is a copy that the test may replace."""
    other = ready("old" if runsc.name == "new" else "new")
    with tempfile.TemporaryDirectory(prefix="cryo-runsc-") as folder:
        binary = Path(folder) / "runsc"
        shutil.copy(runsc.path, binary)
        with machine_with(RunscBuild(runsc.name, binary, runsc.has_builtin)) as rig:
            yield Installed(rig, runsc.path, other.path)
            rig.clear()
            assert rig.leftovers() == []


@pytest.mark.every_combination
@pytest.mark.parametrize("restarted", (False, True), ids=("same sidecar", "new sidecar"))
def test_another_version(installed: Installed, *, restarted: bool) -> None:
    """Its tasks run on, and no checkpoint is made with the wrong one; with the first it is."""
    rig = installed.rig
    rig.workload("job")
    rig.workload("end")
    installed.replace(installed.other)
    if restarted:
        rig.crash()
    rig.sim.calls(clear=True)

    for exits in (False, True):
        error = refused(Refused, partial(rig.checkpoint, "job", exit=exits))
        assert f"{rig.build.path} was replaced" in error.message
        assert "task job runs " in error.message
    found = not_well(doctor(rig, "job"))["runsc"]
    assert (found.level, found.text, found.remedy) == (
        Level.FAILURE,
        error.message,
        error.remedy,
    )
    assert not any(call.action in {"lock", "checkpoint"} for call in rig.sim.calls())
    assert rig.client.images() == []
    assert rig.fine("job")

    rig.execute("job", "program", "/bin/true")
    rig.client.pause("job")
    rig.client.resume("job")
    assert rig.client.stats("job").memory_bytes
    assert rig.end("end").status == 137
    rig.workload("fresh")
    rig.checkpoint("fresh")

    installed.replace(installed.first)
    saved = rig.checkpoint("job", exit=True)
    rig.restore("back", saved.image_path)
    assert rig.fine("back")


@pytest.mark.every_combination
def test_the_same_version_again(installed: Installed) -> None:
    """A package that is installed again changes nothing."""
    rig = installed.rig
    rig.workload("job")
    installed.replace(installed.first)
    assert not_well(doctor(rig, "job")) == {}

    saved = rig.checkpoint("job", exit=True)

    assert saved.warnings == ()
    rig.restore("back", saved.image_path)
    assert rig.fine("back")


def test_it_is_replaced_during_a_checkpoint(installed: Installed) -> None:
    """The checkpoint fails as a whole, and the task runs on: its image could not be restored."""
    rig = installed.rig
    rig.workload("job")
    rig.sim.faults(Fault(action="lock", kind=Kind.SLOW, seconds=2.0))
    rig.sim.calls(clear=True)
    under_way = Background(lambda: rig.checkpoint("job", "phased", exit=True))
    wait_until(lambda: bool(rig.sim.calls()), "the checkpoint", WAIT_S)

    installed.replace(installed.other)

    refused(Refused, under_way.result)
    assert rig.client.images() == []
    assert [view.state for view in rig.client.list()] == [TaskState.RUNNING]
    assert rig.fine("job")
