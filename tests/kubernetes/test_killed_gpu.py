"""The kubelet, containerd or a shim is killed while CUDA processes of a warm pod are moved."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from shim.simgpu.simulation import Simulation
from tests.builds import RunscBuild
from tests.containerd import gpu as containers
from tests.containerd.builds import LINES, ContainerdBuild
from tests.containerd.place import Place
from tests.faults import arming
from tests.kubernetes import gpu
from tests.kubernetes.machine import KILLS, Machine
from tests.kubernetes.node import Extras
from tests.kubernetes.objects import Document

pytestmark = [
    pytest.mark.long,
    pytest.mark.timeout(600),
    pytest.mark.parametrize("containerd_build", LINES[-1:], indirect=True),
]
# A pod's sandbox is created before its containers request a GPU.
_FLAGS = {"nvproxy": "true", "nvproxy-driver-version": "latest", "host-uds": "open"}
# The steps: the failpoint, and how often it is reached until then.
SAVING: Mapping[str, tuple[str, int]] = {
    "locked": ("cuda.lock:after", 1),
    "frozen": ("cuda.checkpoint:after", 1),
    "thawed": ("cuda.restore:after", 1),
}
LOADING: Mapping[str, tuple[str, int]] = {
    "loaded": ("cuda.restore:before", 1),
    "thawed": ("cuda.unlock:after", 1),
}


@pytest.fixture(scope="module")
def sim(runsc_new: RunscBuild) -> Iterator[Simulation]:
    """Yield a machine with a simulated GPU."""
    with Simulation(runsc_new.path) as made:
        yield made


@pytest.fixture(scope="module")
def place(sim: Simulation) -> Place:
    """Return its namespace, in which the cluster runs; a kubelet reads the kernel's messages."""
    found = containers.place_of(sim)
    found.do("mknod", "/dev/kmsg", "c", "1", "11")
    return found


@pytest.fixture(scope="module")
def extras(
    sim: Simulation, place: Place, containerd_build: ContainerdBuild, trap_file: Path
) -> Extras:
    """Give every container the device, and let the shims move its processes step by step."""
    cuda = {**sim.settings_of_cuda(), "helper": "never"}
    return Extras(
        env=arming.env_of(place.folder / "arming", trap_file),
        flags=_FLAGS,
        settings={"cuda": cuda, "defaults": {"engine": "phased"}},
        base_spec=gpu.write_base_spec(containerd_build, place),
    )


@pytest.fixture(scope="module")
def saved(machine: Machine, sim: Simulation) -> tuple[str, str]:
    """Save a pod; return the name of its image, and what is in it."""
    (pod,) = pods(machine, sim, "loading", 1)
    return "loading", machine.save(pod, "loading")


def pods(
    machine: Machine, sim: Simulation, name: str, number: int, kind: str = ""
) -> list[Document]:
    """Return pods of a template that is warm by a name."""
    notes = {"io.cryo.warm": name}
    node = machine.cluster.node
    return [gpu.pod(sim, f"{name}{kind}-{at + 1}", node=node, notes=notes) for at in range(number)]


def works(machine: Machine, sim: Simulation, pod: Document) -> bool:
    """Return whether the processes of a pod make steps, and have all of their memory."""
    found = gpu.container_of(machine.cluster.read(pod))
    return sim.fine(containers.CtrGuest(machine.node), found, timeout_s=30)


@pytest.mark.parametrize("killed", KILLS)
@pytest.mark.parametrize("step", SAVING)
def test_killed_at_a_step_of_the_save(
    machine: Machine, sim: Simulation, step: str, killed: str
) -> None:
    """The pod runs in the end and is saved; the next one is restored, with its GPU memory."""
    name = f"saving-{step}-{killed}"
    first, second = pods(machine, sim, name, 2)

    KILLS[killed](machine, machine.halt(first, *SAVING[step]))

    machine.until_saved(first, second, name)
    assert [works(machine, sim, one) for one in (first, second)] == [True, True]
    machine.end(first, second)


@pytest.mark.parametrize("killed", KILLS)
@pytest.mark.parametrize("step", LOADING)
def test_killed_at_a_step_of_the_load(
    machine: Machine, sim: Simulation, step: str, killed: str, saved: tuple[str, str]
) -> None:
    """The pod runs in the end, warm or cold, and so does the next one, with its GPU memory."""
    name, birth = saved
    second, third = pods(machine, sim, name, 2, f"-{step}-{killed}")

    KILLS[killed](machine, machine.halt(second, *LOADING[step]))

    machine.until_served(second, third, birth)
    assert [works(machine, sim, one) for one in (second, third)] == [True, True]
    machine.end(second, third)
