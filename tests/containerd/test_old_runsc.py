"""Our shim with a runsc that has neither the built-in engine nor the newer restore checks."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from shim.simgpu.simulation import Settings, Simulation
from tests.builds import RunscBuild
from tests.containerd import gpu
from tests.containerd.builds import LINES, ContainerdBuild
from tests.containerd.cryo import COUNT, RUNTIME, Cryo, simulated
from tests.containerd.image import REFERENCE
from tests.containerd.place import Place

# The differences do not depend on containerd, so the oldest and newest line suffice.
pytestmark = pytest.mark.parametrize("containerd_build", (LINES[0], LINES[-1]), indirect=True)


@pytest.fixture(scope="module")
def old(
    containerd_build: ContainerdBuild,
    simulation: Simulation,
    gpu_place: Place,
    runsc_old: RunscBuild,
    archive: Path,
) -> Iterator[Cryo]:
    """Yield a running containerd of each line whose shims use the old runsc."""
    with simulated(containerd_build, simulation, gpu_place, runsc_old.path) as made:
        made.import_image(archive)
        made.run("first", "true")
        made.know()
        yield made


@pytest.fixture(autouse=True)
def nothing_of_it_left(old: Cryo) -> Iterator[None]:
    """Check that the test has left nothing behind."""
    with old.images_apart():
        yield
    old.expect_nothing_new()


def test_a_life(old: Cryo) -> None:
    """Containers run, exec, pause and exit with their own exit codes."""
    codes = (0, 7, 137)
    ran = old.each(
        lambda c: old.run(old.fresh("code"), "sh", "-c", f"exit {c}", check=False), codes
    )
    assert [one.status for one in ran] == list(codes)
    with old.container("sh", "-c", COUNT) as name:
        assert old.exec(name, "sh", "-c", "exit 3", check=False).status == 3
        old.ctr("tasks", "pause", name)
        assert old.status(name) == "PAUSED"
        old.ctr("tasks", "resume", name)
        old.until_counts(name)
        assert "cpu" in old.ctr("tasks", "metrics", name).out
        old.kill_task(name)
        assert "exit code 137" in old.ctr("tasks", "delete", name).err


def test_a_terminal(old: Cryo) -> None:
    """A container on a terminal receives what is typed and returns its exit code."""
    how = ("--runtime", RUNTIME, "--snapshotter", "native")
    argv = ("run", "--rm", "-t", *how, REFERENCE, "tty", "sh", "-c", "echo go; read a; exit 7")

    ran = old.ctr_on_terminal(*argv, typed="typed\n", check=False)

    assert "go" in ran.out
    assert ran.status == 7


def test_a_gpu_container_comes_back(old: Cryo, simulation: Simulation) -> None:
    """CUDA processes are saved from outside the sandbox and restored from the image."""
    job, again, guest = old.fresh("job"), old.fresh("again"), gpu.CtrGuest(old)
    with old.removing(job, again):
        gpu.start_on_image(simulation, old, job, runtime=RUNTIME, settings=Settings(processes=2))
        simulation.until_ready(guest, job)
        reference = old.save(job, "--rw")
        assert simulation.works(guest, job)
        old.remove(job)
        old.bring_back(reference, again, "--rw")
        assert simulation.works(guest, again)
        assert simulation.verify(guest, again).intact
