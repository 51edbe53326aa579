"""Checkpoint and restore of containers with CUDA processes, with ctr's own commands."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from shim.simgpu.simulation import Fault, Kind, Settings, Simulation, wait_until
from tests.containerd import gpu
from tests.containerd.builds import LINES
from tests.containerd.cryo import RUNTIME, Cryo

_TWO = Settings(processes=2)


@pytest.fixture(autouse=True)
def images_apart(cryo: Cryo, nothing_left: None) -> Iterator[None]:
    """Remove the images of a test, and check that nothing else of it is left."""
    with cryo.images_apart():
        yield


@pytest.fixture
def guest(cryo: Cryo) -> gpu.CtrGuest:
    """Return the guest by which workloads are queried."""
    return gpu.CtrGuest(cryo)


@pytest.fixture
def job(cryo: Cryo, simulation: Simulation, guest: gpu.CtrGuest) -> Iterator[str]:
    """Yield a container of the small image in which two CUDA processes work."""
    name = cryo.fresh("job")
    with cryo.removing(name):
        gpu.start_on_image(simulation, cryo, name, runtime=RUNTIME, settings=_TWO)
        simulation.until_ready(guest, name)
        yield name
    simulation.faults()


def test_a_task_is_saved_and_works_on(
    cryo: Cryo, simulation: Simulation, guest: gpu.CtrGuest, job: str
) -> None:
    """Its CUDA processes are frozen for `ctr tasks checkpoint` and lose nothing."""
    simulation.calls(clear=True)

    cryo.ctr("tasks", "checkpoint", job)

    assert len([call for call in simulation.calls() if call.action == "checkpoint"]) == 2
    assert cryo.status(job) == "RUNNING"
    assert simulation.works(guest, job)
    assert simulation.verify(guest, job).intact


def test_two_containers_come_back(
    cryo: Cryo, simulation: Simulation, guest: gpu.CtrGuest, job: str
) -> None:
    """Two containers restored from one image have all GPU state and continue with it."""
    twins = (cryo.fresh("twin"), cryo.fresh("twin"))
    with cryo.removing(*twins):
        reference = cryo.save(job, "--rw")
        assert simulation.works(guest, job)
        cryo.remove(job)
        for twin in twins:
            cryo.bring_back(reference, twin, "--rw")
        for twin in twins:
            assert simulation.works(guest, twin)
            assert simulation.verify(guest, twin).intact


# It does not depend on containerd's release.
@pytest.mark.parametrize("containerd_build", LINES[-1:], indirect=True)
def test_a_task_without_an_image(cryo: Cryo, simulation: Simulation, guest: gpu.CtrGuest) -> None:
    """A container with only a spec, without image and snapshot, is saved in the same way."""
    name = cryo.fresh("bare")
    spec = gpu.write_spec(simulation, cryo, name, _TWO)
    with cryo.removing(name):
        cryo.ctr("run", "--detach", "--runtime", RUNTIME, "--config", str(spec), name)
        simulation.until_ready(guest, name)
        cryo.ctr("tasks", "checkpoint", name)
        assert simulation.works(guest, name)
        assert simulation.verify(guest, name).intact


def test_a_pause_gives_gpu_memory_back(
    cryo: Cryo, simulation: Simulation, guest: gpu.CtrGuest
) -> None:
    """With the annotation `ctr tasks pause` parks a container; `resume` restores its memory."""
    name = cryo.fresh("parks")
    spec = gpu.write_spec(simulation, cryo, name, _TWO, {"io.cryo.park": "true"})
    with cryo.removing(name):
        cryo.ctr("run", "--detach", "--runtime", RUNTIME, "--config", str(spec), name)
        simulation.until_ready(guest, name)
        before = simulation.device()["used_bytes"]

        cryo.ctr("tasks", "pause", name)

        assert (cryo.status(name), before > 0) == ("PAUSED", True)
        assert simulation.device()["used_bytes"] == 0
        cryo.ctr("tasks", "resume", name)
        assert simulation.device()["used_bytes"] == before
        assert simulation.works(guest, name)
        assert simulation.verify(guest, name).intact


def test_ctr_saves_a_container_that_parks(
    cryo: Cryo, simulation: Simulation, guest: gpu.CtrGuest
) -> None:
    """`ctr containers checkpoint` pauses the task first, which parks it; the save works."""
    name, twin = cryo.fresh("parks"), cryo.fresh("twin")
    with cryo.removing(name, twin):
        parks = {"io.cryo.park": "true"}
        gpu.start_on_image(
            simulation, cryo, name, runtime=RUNTIME, settings=_TWO, annotations=parks
        )
        simulation.until_ready(guest, name)

        reference = cryo.save(name, "--rw")

        cryo.bring_back(reference, twin, "--rw")
        for one in (name, twin):
            assert simulation.works(guest, one)
            assert simulation.verify(guest, one).intact


def test_a_freeze_that_fails(
    cryo: Cryo, simulation: Simulation, guest: gpu.CtrGuest, job: str
) -> None:
    """The error of a failed freeze names the process, and the task works on."""
    simulation.faults(Fault(action="checkpoint", kind=Kind.FAIL, nth=2))

    ran = cryo.ctr("tasks", "checkpoint", job, check=False)

    assert ran.status != 0
    assert "pid" in ran.err or "process" in ran.err
    assert cryo.status(job) == "RUNNING"
    assert simulation.works(guest, job)
    assert simulation.verify(guest, job).intact


def test_a_kill_in_a_checkpoint(cryo: Cryo, simulation: Simulation, job: str) -> None:
    """SIGKILL ends the task during its freeze, and ctr prints why there is no image."""
    simulation.calls(clear=True)
    simulation.faults(Fault(action="checkpoint", kind=Kind.SLOW, nth=2, seconds=60))
    with ThreadPoolExecutor(1) as pool:
        saving = pool.submit(cryo.ctr, "tasks", "checkpoint", job, check=False)
        wait_until(lambda: _froze(simulation), "the freeze", 60)
        cryo.kill_task(job)
        ran = saving.result(20)

    assert ran.status != 0
    assert "was killed during the checkpoint" in ran.err
    assert "exit code 137" in cryo.ctr("tasks", "delete", job).err


def _froze(simulation: Simulation) -> bool:
    return any(call.action == "checkpoint" for call in simulation.calls())
