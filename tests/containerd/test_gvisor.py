"""gVisor's own shim under the harness, with a simulated GPU, for comparison with ours."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from hack.tools.running import NotHere
from shim.simgpu.simulation import Simulation
from tests.builds import RunscBuild, excuse
from tests.containerd import gpu, gvisor
from tests.containerd.builds import find_containerd
from tests.containerd.conftest import program
from tests.containerd.harness import Containerd


@pytest.fixture(scope="module")
def simulation(runsc_new: RunscBuild) -> Iterator[Simulation]:
    """Yield a machine with a simulated GPU."""
    with Simulation(runsc_new.path) as made:
        yield made


@pytest.fixture(scope="module")
def containerd(simulation: Simulation, archive: Path) -> Iterator[Containerd]:
    """Yield a containerd in the simulation's namespace, with gVisor's shim."""
    program("containerd-2.4")
    try:
        programs = gvisor.programs(simulation.runsc)
    except NotHere as no:
        excuse(str(no))
    place = gpu.place_of(simulation)
    with Containerd(find_containerd("2.4"), place, programs=programs) as made:
        made.import_image(archive)
        yield made


def test_a_container_runs(containerd: Containerd) -> None:
    """An attached run returns the container's output; its exit code is 0 or, wrongly, 128."""
    flags = ("--rm", *gvisor.run_flags(containerd))

    ran = containerd.run("one", "echo", "hello", runtime=gvisor.RUNTIME, flags=flags, check=False)

    assert ran.out == "hello\n"
    assert ran.status in {0, 128}


def test_a_simulated_gpu_is_seen(simulation: Simulation, containerd: Containerd) -> None:
    """A workload with a simulated GPU works under containerd."""
    spec = gpu.write_spec(simulation, containerd, "gpu", annotations=gvisor.ANNOTATIONS)
    flags = gvisor.config_flags(containerd, simulation.flags)
    how = ("--runtime", gvisor.RUNTIME, *flags, "--config", str(spec))

    containerd.ctr("run", "--detach", *how, "gpu")
    try:
        assert simulation.until_ready(gpu.CtrGuest(containerd), "gpu").ready
    finally:
        containerd.ctr("tasks", "delete", "--force", "gpu", check=False)
        containerd.ctr("containers", "delete", "gpu", check=False)
