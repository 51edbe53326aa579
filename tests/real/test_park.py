"""A pause that gives GPU memory back, for tasks that ask for it by an annotation."""

from __future__ import annotations

import signal
from functools import partial

import pytest

from shim.errors import CudaError, IllegalState, InvalidArgument, NotFound, ResourceExhausted
from shim.model import CudaMode, EngineName
from shim.simgpu.simulation import Fault, Kind
from shim.state import TaskState
from tests.real.helpers_rig import Rig, refused

pytestmark = pytest.mark.timeout(120)


def workload(rig: Rig, name: str, *, park: str = "true") -> None:
    """Start a workload that parks when it is paused."""
    bundle = rig.sim.bundle(
        name,
        rig.settings(processes=2),
        inject_tool=False,
        annotations={"io.cryo.park": park},
    )
    rig.client.create(name, str(bundle))
    rig.client.start(name)
    rig.sim.until_ready(rig.guest, name)


def test_gpu_memory_is_given_back(rig: Rig) -> None:
    """While it is paused the task holds no GPU memory; then it works on, with every byte."""
    workload(rig, "job")
    before = rig.sim.held_bytes()

    rig.client.pause("job")

    assert (before > 0, rig.sim.held_bytes()) == (True, 0)
    assert rig.client.state("job").state is TaskState.PAUSED
    rig.client.resume("job")
    assert rig.sim.held_bytes() == before
    assert rig.fine("job")


def test_two_tasks_take_turns(rig: Rig) -> None:
    """Of two tasks that do not fit beside each other, one works while the other is parked."""
    workload(rig, "a")
    one = rig.sim.held_bytes()
    rig.client.pause("a")
    rig.sim.limit(reserved_bytes=rig.sim.capacity_bytes - one)
    workload(rig, "b")

    for going, waiting in (("b", "a"), ("a", "b"), ("b", "a")):
        error = refused(ResourceExhausted, partial(rig.client.resume, waiting))
        assert "MiB free" in error.message
        assert rig.client.state(waiting).state is TaskState.PAUSED
        assert rig.fine(going)
        rig.client.pause(going)
        rig.client.resume(waiting)

    assert rig.fine("a")


def test_without_the_annotation_a_pause_keeps_the_gpu_memory(rig: Rig) -> None:
    """Only tasks that ask for it are parked."""
    workload(rig, "job", park="false")
    before = rig.sim.held_bytes()

    rig.client.pause("job")

    assert rig.sim.held_bytes() == before
    assert [call.action for call in rig.sim.calls() if call.action == "lock"] == []


def test_a_mistake_in_the_annotation_is_reported_at_once(rig: Rig) -> None:
    """The task is not created with it."""
    refused(InvalidArgument, lambda: workload(rig, "job", park="perhaps"))


def test_parked_tasks_survive_the_sidecar(rig: Rig) -> None:
    """After kill -9 it is still parked, nothing is undone, and it is resumed on request."""
    workload(rig, "job")
    rig.client.pause("job")

    rig.crash()

    [view] = rig.client.list()
    assert (view.state, view.warning, rig.sim.held_bytes()) == (TaskState.PAUSED, "", 0)
    rig.client.resume("job")
    assert rig.fine("job")


def test_a_parked_task_is_saved_as_it_is(rig: Rig) -> None:
    """No GPU process is touched for the image, for its GPU may be another's; it stays parked."""
    workload(rig, "job")
    rig.client.pause("job")
    rig.sim.calls(clear=True)

    image = rig.checkpoint("job").image_path

    assert (rig.sim.calls(), rig.sim.held_bytes()) == ([], 0)
    assert rig.client.state("job").state is TaskState.PAUSED
    rig.crash()
    rig.client.resume("job")
    rig.restore("copy", image)
    assert (rig.fine("job"), rig.fine("copy")) == (True, True)


def test_a_parked_task_is_saved_and_stopped(rig: Rig) -> None:
    """With exit it is in its image and nowhere else."""
    workload(rig, "job")
    rig.client.pause("job")

    image = rig.checkpoint("job", exit=True).image_path

    assert rig.client.wait("job").status == 137
    rig.client.delete("job")
    assert rig.leftovers() == []
    rig.restore("copy", image)
    assert rig.fine("copy")


def test_how_a_parked_task_cannot_be_saved(rig: Rig) -> None:
    """What would make an image that knows of no GPU processes is refused, and changes nothing."""
    workload(rig, "job")
    rig.client.pause("job")

    error = refused(IllegalState, lambda: rig.checkpoint("job", cuda=CudaMode.IGNORE))

    assert ("parked" in error.message, "resume it first" in error.remedy) == (True, True)
    rig.client.resume("job")
    assert rig.fine("job")


def test_the_engine_of_a_parked_task(rig: Rig) -> None:
    """Where the built-in one is asked for, nothing is left for it to do, and a warning says so."""
    workload(rig, "job")
    rig.client.pause("job")

    result = rig.checkpoint("job", EngineName.BUILTIN)

    assert result.engine == EngineName.PHASED
    assert any("parked" in warning for warning in result.warnings)
    rig.restore("copy", result.image_path)
    assert rig.fine("copy")


@pytest.mark.parametrize(
    ("number", "status", "thawed"), ((signal.SIGKILL, 137, 0), (signal.SIGTERM, 0, 2))
)
def test_a_parked_task_can_be_killed(
    rig: Rig, number: signal.Signals, status: int, thawed: int
) -> None:
    """KILL ends it at once; any other signal reaches a task that has its GPU again."""
    workload(rig, "job")
    rig.client.pause("job")
    rig.sim.calls(clear=True)

    rig.client.kill("job", number)

    assert rig.client.wait("job").status == status
    assert [call.action for call in rig.sim.calls()].count("restore") == thawed
    refused(NotFound, lambda: rig.client.kill("job", signal.SIGTERM))
    rig.client.delete("job")
    assert rig.leftovers() == []


def test_a_freeze_that_fails(rig: Rig) -> None:
    """The pause fails, and the task runs as before."""
    workload(rig, "job")
    rig.sim.faults(Fault(action="checkpoint", kind=Kind.FAIL, nth=2))

    refused(CudaError, lambda: rig.client.pause("job"))

    assert rig.client.state("job").state is TaskState.RUNNING
    assert rig.fine("job")
