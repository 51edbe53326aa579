"""cryo-cuda in the sandbox: all processes by one run, runsc's own engine by it, and what fails."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from shim.cuda import native
from shim.errors import CudaError, DeadlineExceeded
from shim.model import EngineName
from shim.simgpu.fault import Fault, Kind
from shim.simgpu.simulation import Simulation
from tests.builds import RunscBuild, excuse
from tests.real.helpers_rig import Rig, machine_with, refused

pytestmark = pytest.mark.timeout(180)

# The guard of the built-in engine ends what takes longer than `freeze`: the lock comes before.
_QUICK = {"detect": 5.0, "lock": 1.0, "freeze": 4.0, "thaw": 4.0}


@pytest.fixture(scope="module")
def machine(runsc: RunscBuild) -> Iterator[Rig]:
    """Give a machine whose sidecar has short deadlines."""
    must_be_built()
    with machine_with(runsc, timeouts=_QUICK) as rig:
        yield rig


def must_be_built() -> None:
    """Go on only where cryo-cuda is."""
    if not native.path():
        excuse("cryo-cuda is not built: there is no C compiler")


def via(rig: Rig) -> set[str]:
    """Return in which ways the driver was called: by a batch, by a toggle, or plainly."""
    return {call.via for call in rig.sim.calls()}


@pytest.mark.parametrize("processes", (1, 2, 8))
def test_some_processes(rig: Rig, processes: int) -> None:
    """However many there are, each is saved and comes back, by batches alone."""
    rig.workload("job", processes=processes)

    made = rig.checkpoint("job", "phased")
    rig.restore("copy", made.image_path)

    assert len(made.processes) == processes
    assert via(rig) == {"batch"}
    assert rig.fine("job")
    assert rig.fine("copy")


def test_one_start_of_the_driver_each_way(rig: Rig) -> None:
    """A look, a freeze, a look after the save's thaw: the driver begins once for each."""
    rig.workload("job", processes=4)

    rig.checkpoint("job", "phased")

    begun = [call for call in rig.sim.calls() if call.action == "init"]
    assert len(begun) == 3


@pytest.mark.parametrize("runsc", ("new",), indirect=True)
def test_the_builtin_engine_runs_it(rig: Rig) -> None:
    """In place of cuda-checkpoint, runsc runs cryo-cuda."""
    rig.workload("job", processes=2)

    made = rig.checkpoint("job", "builtin")
    rig.restore("copy", made.image_path)

    assert made.engine == EngineName.BUILTIN
    # The Python stand-in, which is there too, calls no `init`: these toggles are cryo-cuda's.
    toggles = [call for call in rig.sim.calls() if call.via == "toggle"]
    assert [c.action for c in toggles].count("init") == 3 * 2
    assert rig.fine("job")
    assert rig.fine("copy")


@pytest.mark.parametrize("runsc", ("new",), indirect=True)
def test_the_builtin_engine_has_a_deadline_for_the_lock(rig: Rig) -> None:
    """The driver gives the lock up in time, where runsc alone would wait forever."""
    busy = rig.workload("job", processes=3).pids[1]
    rig.sim.faults(Fault(action="lock", kind=Kind.BUSY, pid=busy))

    error = refused(DeadlineExceeded, lambda: rig.checkpoint("job", "builtin"))

    assert f"{busy} (python" in error.message
    assert "device not ready" in error.message
    rig.sim.faults()
    assert rig.fine("job")


def test_a_lock_that_is_not_given(rig: Rig) -> None:
    """One of three is busy: the driver gives up in time, and the error names that process."""
    busy = rig.workload("job", processes=3).pids[1]
    rig.sim.faults(Fault(action="lock", kind=Kind.BUSY, pid=busy))

    error = refused(DeadlineExceeded, lambda: rig.checkpoint("job", "phased"))

    assert f"{busy} (python" in error.message
    assert "checkpoint" not in {call.action for call in rig.sim.calls()}
    rig.sim.faults()
    assert rig.fine("job")


def test_a_freeze_that_fails(rig: Rig) -> None:
    """The second of three cannot be copied out: all are running again."""
    rig.workload("job", processes=3)
    rig.sim.faults(Fault(action="checkpoint", kind=Kind.FAIL, nth=2, message="launch failed"))

    error = refused(CudaError, lambda: rig.checkpoint("job", "phased"))

    assert "launch failed" in error.message
    rig.sim.faults()
    assert rig.fine("job")


@pytest.mark.parametrize("action", ("init", "get-state", "lock", "checkpoint"))
def test_a_driver_that_hangs(rig: Rig, action: str) -> None:
    """The call that hangs is left alone, the program ends in time, and all are running again."""
    rig.workload("job", processes=3)
    # The first start of the driver belongs to the look, the second to the freeze.
    rig.sim.faults(Fault(action=action, kind=Kind.HANG, nth=2))

    if action == "init":
        rig.checkpoint("job", "phased")  # cuda-checkpoint took over
    else:
        refused(DeadlineExceeded, lambda: rig.checkpoint("job", "phased"))

    rig.sim.faults()
    assert rig.fine("job")


@pytest.mark.parametrize("kind", (Kind.WRONG_STATE, Kind.FAIL_AFTER))
def test_a_driver_that_lies(rig: Rig, kind: Kind) -> None:
    """What it says is not believed: the states are read, nothing is frozen on a false report."""
    rig.workload("job", processes=3)
    rig.sim.faults(Fault(action="lock", kind=kind, nth=2))

    refused(CudaError, lambda: rig.checkpoint("job", "phased"))

    assert "checkpoint" not in {call.action for call in rig.sim.calls()}
    rig.sim.faults()
    assert rig.fine("job")


def test_no_memory_at_restore(rig: Rig) -> None:
    """The new task is taken away, the error says what ran out, and the image is good."""
    rig.workload("job", processes=3)
    image = rig.checkpoint("job", "phased", exit=True).image_path
    rig.sim.faults(Fault(action="restore", kind=Kind.OOM, nth=2))

    with pytest.raises(Exception, match="out of memory"):
        rig.restore("copy", image)

    rig.sim.faults()
    rig.restore("again", image)
    assert rig.fine("again")


def test_a_process_that_ends_meanwhile(rig: Rig) -> None:
    """It is no error: the others are saved."""
    rig.workload("job", processes=3)
    rig.sim.faults(Fault(action="lock", kind=Kind.DIE, nth=2))

    made = rig.checkpoint("job", "phased")

    assert len(made.processes) == 2


def test_a_container_where_it_cannot_run(rig: Rig) -> None:
    """Without a libcuda.so.1 that it finds, cuda-checkpoint does the steps, and that is said."""
    folder = rig.sim.bundle("job", rig.settings(processes=2), inject_tool=False)
    with rig.edited(folder) as spec:
        env = spec["process"]["env"]
        spec["process"]["env"] = [line for line in env if not line.startswith("LD_LIBRARY_PATH")]
    rig.client.create("job", str(folder))
    rig.client.start("job")
    rig.sim.until_ready(rig.guest, "job")

    rig.checkpoint("job", "phased")

    assert via(rig) == {""}
    assert rig.fine("job")


def test_restored_where_there_is_none(runsc_new: RunscBuild) -> None:
    """An image that was made with it restores on a host with NVIDIA's tool alone."""
    must_be_built()
    with machine_with(runsc_new) as rig:
        rig.workload("job", processes=2)
        image = rig.checkpoint("job", "phased", exit=True).image_path
        rig.sim.stop_sidecar()
        rig.sim.start_sidecar(cuda={**rig.sim.settings_of_cuda(), "helper": "never"})
        rig.sim.calls(clear=True)

        rig.restore("copy", image)

        assert via(rig) == {""}
        assert rig.fine("copy")
        rig.clear()


def test_without_nvidias_tool(runsc_new: RunscBuild) -> None:
    """A host that has no cuda-checkpoint needs none: ours does it, by both engines."""
    must_be_built()
    with Simulation(runsc_new.path, tool=False) as sim:
        sim.start_sidecar()
        rig = Rig(sim, runsc_new)
        rig.workload("job", processes=2)
        first = rig.checkpoint("job", "phased").image_path
        rig.checkpoint("job", "builtin")
        rig.restore("copy", first)

        assert rig.fine("job")
        assert rig.fine("copy")
        rig.clear()
