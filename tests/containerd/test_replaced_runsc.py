"""A runsc that is replaced while containerd's tasks run: their shims go on with them."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from shim.simgpu.simulation import Settings, Simulation
from tests.builds import RunscBuild
from tests.containerd import gpu
from tests.containerd.builds import LINES, ContainerdBuild
from tests.containerd.cryo import RUNTIME, Cryo, simulated
from tests.containerd.place import Place

pytestmark = pytest.mark.parametrize("containerd_build", (LINES[-1],), indirect=True)


@pytest.fixture
def binary(tmp_path: Path, runsc_new: RunscBuild) -> Path:
    """Return a copy of runsc that the test may replace."""
    path = tmp_path / "runsc"
    shutil.copy(runsc_new.path, path)
    return path


@pytest.fixture
def cryo(
    containerd_build: ContainerdBuild,
    simulation: Simulation,
    gpu_place: Place,
    binary: Path,
    archive: Path,
) -> Iterator[Cryo]:
    """Yield a running containerd whose shims use that copy."""
    with simulated(containerd_build, simulation, gpu_place, binary) as made:
        made.import_image(archive)
        yield made


def put(content: Path, binary: Path) -> None:
    """Put a copy of a file in the place of runsc, as a package does."""
    fresh = binary.with_name("fresh")
    shutil.copy(content, fresh)
    fresh.replace(binary)


def test_a_task_is_saved_with_its_own_runsc_alone(
    cryo: Cryo, simulation: Simulation, binary: Path, runsc_new: RunscBuild, runsc_old: RunscBuild
) -> None:
    """With another one ctr says why not, and the container runs on; after that it is saved."""
    job, again, guest = cryo.fresh("job"), cryo.fresh("again"), gpu.CtrGuest(cryo)
    with cryo.removing(job, again):
        gpu.start_on_image(simulation, cryo, job, runtime=RUNTIME, settings=Settings(processes=2))
        simulation.until_ready(guest, job)
        put(runsc_old.path, binary)

        refused = cryo.ctr(
            "containers", "checkpoint", "--image", "--task", "--rw", job, "x:1", check=False
        )

        assert refused.status != 0
        assert f"{binary} was replaced: the sandbox of task {job} runs" in refused.err
        assert simulation.works(guest, job)
        put(runsc_new.path, binary)
        reference = cryo.save(job, "--rw")
        cryo.remove(job)
        cryo.bring_back(reference, again, "--rw")
        assert simulation.works(guest, again)


def test_a_task_ends_with_another_runsc(
    cryo: Cryo, simulation: Simulation, binary: Path, runsc_old: RunscBuild
) -> None:
    """It is killed and deleted, and the next one is created by the new runsc."""
    with cryo.container() as name:
        put(runsc_old.path, binary)
        assert cryo.exec(name, "true").status == 0
        cryo.kill_task(name)
        assert "exit code 137" in cryo.ctr("tasks", "delete", name).err
    with cryo.container() as name:
        assert cryo.exec(name, "true").status == 0
