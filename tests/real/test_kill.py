"""KILL on real runsc: a checkpoint, a restore or an exec's start does not hold it up."""

from __future__ import annotations

import os
import signal
import threading
import time

import pytest

from shim.errors import CryoError, IllegalState, NotFound
from shim.model import CheckpointOptions, Phase, Progress, RestoreOptions
from shim.simgpu.simulation import Fault, Kind, wait_until
from shim.state import TaskState
from tests.real.helpers_rig import WAIT_S, Background, Rig
from tests.real.test_pods import Pod

pytestmark = pytest.mark.timeout(120)

# What is promised is two seconds; machines that run tests are busy.
ENDS_S = 10.0
# What is interrupted would take longer than that.
SLOW_S = 60.0


class Reached:
    """Hears the progress of an operation, and waits for one of its phases."""

    def __init__(self, phase: Phase) -> None:
        self._phase = phase
        self._event = threading.Event()

    def report(self, progress: Progress) -> None:
        """Hear it."""
        if progress.phase is self._phase:
            self._event.set()

    def wait(self) -> None:
        """Return when the phase has begun."""
        assert self._event.wait(WAIT_S), f"phase {self._phase} was not reached"


def killed(rig: Rig, name: str) -> int:
    """Kill a task; return its exit status, which comes soon."""
    began = time.monotonic()
    rig.client.kill(name, signal.SIGKILL)
    status = rig.client.wait(name).status
    assert time.monotonic() - began < ENDS_S
    return status


def error_of(work: Background) -> str:
    """Return what the caller of an interrupted operation gets, which is soon as well."""
    with pytest.raises(IllegalState) as caught:
        work.result(ENDS_S)
    return caught.value.message


@pytest.mark.parametrize("phase", (Phase.FREEZE, pytest.param(Phase.SAVE, marks=pytest.mark.long)))
def test_during_a_checkpoint(rig: Rig, engine: str, phase: Phase) -> None:
    """The task ends, no image is left, and the caller of the checkpoint gets the reason."""
    rig.workload("job", processes=2, resident_mib=256)
    if phase is Phase.FREEZE and engine == "phased":
        rig.sim.faults(Fault(action="checkpoint", kind=Kind.SLOW, nth=2, seconds=SLOW_S))
    reached = Reached(phase)
    options = CheckpointOptions()
    work = Background(lambda: rig.client.checkpoint("job", options, reached.report))
    reached.wait()

    assert killed(rig, "job") == 137
    assert "job was killed during the checkpoint" in error_of(work)

    assert rig.client.state("job").state is TaskState.STOPPED
    assert rig.client.images() == []
    rig.client.delete("job")


@pytest.mark.parametrize("phase", (Phase.LOAD, pytest.param(Phase.THAW, marks=pytest.mark.long)))
def test_during_a_restore(rig: Rig, engine: str, phase: Phase) -> None:
    """Nothing of the new task is left, and the image is as it was."""
    rig.workload("job", processes=2, resident_mib=256)
    image = rig.checkpoint("job", engine, exit=True).image_path
    rig.client.delete("job")
    rig.sim.faults(Fault(action="restore", kind=Kind.SLOW, nth=1, seconds=SLOW_S))
    reached = Reached(phase)
    options = RestoreOptions(image_path=image)
    work = Background(lambda: rig.client.restore("back", options, reached.report))
    reached.wait()

    rig.client.kill("back", signal.SIGKILL)

    assert "back was killed during the restore" in error_of(work)
    with pytest.raises(NotFound):
        rig.client.state("back")
    assert rig.sandboxes() == []
    rig.sim.faults()
    rig.restore("back", image)
    assert rig.fine("back")


def test_during_a_restore_by_start(rig: Rig) -> None:
    """As containerd restores: the task stays, exited, for its Delete."""
    rig.workload("job", processes=2)
    image = rig.checkpoint("job", exit=True).image_path
    rig.client.delete("job")
    bundle = rig.sim.bundle("job", rig.settings(processes=2), inject_tool=False)
    rig.client.create("back", str(bundle), checkpoint=image)
    rig.sim.faults(Fault(action="restore", kind=Kind.SLOW, nth=1, seconds=SLOW_S))
    rig.sim.calls(clear=True)
    work = Background(lambda: rig.client.start("back"))
    wait_until(lambda: any(c.action == "restore" for c in rig.sim.calls()), "its thaw", WAIT_S)

    assert killed(rig, "back") == 137
    assert "back was killed during the start" in error_of(work)

    assert rig.client.state("back").state is TaskState.STOPPED
    rig.client.delete("back")


def test_while_it_is_parked(rig: Rig) -> None:
    """A pause that gives GPU memory back is ended as a checkpoint is."""
    bundle = rig.sim.bundle("job", rig.settings(processes=2), inject_tool=False)
    with rig.edited(bundle) as spec:
        spec["annotations"] = {"io.cryo.park": "true"}
    rig.client.create("job", str(bundle))
    rig.client.start("job")
    rig.sim.until_ready(rig.guest, "job")
    rig.sim.faults(Fault(action="checkpoint", kind=Kind.SLOW, nth=2, seconds=SLOW_S))
    work = Background(lambda: rig.client.pause("job"))
    wait_until(lambda: any(c.action == "checkpoint" for c in rig.sim.calls()), "its freeze", WAIT_S)

    assert killed(rig, "job") == 137
    assert "job was killed during the pause" in error_of(work)

    assert rig.sim.device()["used_bytes"] == 0
    rig.client.delete("job")


def test_while_an_exec_starts(rig: Rig) -> None:
    """A sandbox that does not answer, to the exec or to the kill, is killed itself."""
    pid = rig.sleeper("job")
    os.kill(pid, signal.SIGSTOP)
    work = Background(lambda: rig.execute("job", "e", "/bin/true"))

    wait_until(lambda: "exec" in rig.commands(), "runsc exec", WAIT_S)

    assert killed(rig, "job") == 137
    with pytest.raises(CryoError):
        work.result()
    rig.client.delete("job")


@pytest.mark.parametrize("phase", (Phase.FREEZE, Phase.SAVE))
def test_a_container_of_a_pod(rig: Rig, phase: Phase) -> None:
    """Its pod's checkpoint is cancelled; the other containers keep running."""
    pod = Pod(rig)
    pod.begin()
    if phase is Phase.FREEZE:
        rig.sim.faults(Fault(action="checkpoint", kind=Kind.SLOW, nth=2, seconds=SLOW_S))
    reached = Reached(phase)
    options = CheckpointOptions()
    work = Background(lambda: rig.client.checkpoint(pod.sandbox, options, reached.report))
    reached.wait()

    assert killed(rig, pod.train) == 137
    assert "was killed during the checkpoint" in error_of(work)

    rig.sim.faults()
    assert rig.fine(pod.count)
    assert rig.client.state(pod.sandbox).state is TaskState.RUNNING
    rig.client.delete(pod.train)
    rig.end(pod.count)
    rig.end(pod.sandbox)
