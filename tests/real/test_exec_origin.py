"""What an exec has started: runsc ends it in every restore, so a checkpoint says so before."""

from __future__ import annotations

import itertools

import pytest

from shim.errors import CudaError, Refused
from shim.model import ExecProcesses
from shim.simgpu.fault import Fault, Kind
from shim.simgpu.simulation import wait_until
from tests.real.helpers_rig import WAIT_S, Rig, refused

pytestmark = pytest.mark.timeout(180)

# How a job is started by exec: as a session that is waited for, in the background by a shell that
# ends, and as a daemon that leaves the shell's session too.
WAYS = {
    "session": (),
    "background": ("/bin/sh", "-c", '"$@" </dev/null >/dev/null 2>&1 &', "sh"),
    "daemon": ("/usr/bin/setsid", "-f"),
}
_ids = itertools.count()


def _start(rig: Rig, way: str) -> None:
    """Start the GPU workload by exec in a container whose own command only sleeps."""
    bundle = rig.sim.bundle("job", rig.settings(), inject_tool=False)
    with rig.edited(bundle) as spec:
        argv, spec["process"]["args"] = spec["process"]["args"], ["/bin/sleep", "1000"]
        env = spec["process"]["env"]
    rig.client.create("job", str(bundle))
    rig.client.start("job")
    process = {"args": [*WAYS[way], *argv], "cwd": "/", "env": env, "user": {"uid": 0, "gid": 0}}
    exec_id = f"work-{next(_ids)}"
    rig.client.exec("job", exec_id, process)
    rig.client.start("job", exec_id)
    if way != "session":
        rig.client.wait("job", exec_id)
        rig.client.delete("job", exec_id)
    rig.sim.until_ready(rig.guest, "job")


# The old runsc keeps what an exec has left behind, and live sessions are refused.
@pytest.mark.parametrize("runsc", ("new",), indirect=True)
@pytest.mark.parametrize("way", WAYS)
def test_gpu_process_of_an_exec_is_refused(rig: Rig, engine: str, way: str) -> None:
    """The refusal names the process, how to go past it, and comes before anything is touched."""
    _start(rig, way)
    status = rig.sim.until_ready(rig.guest, "job")

    error = refused(Refused, lambda: rig.checkpoint("job", engine, exit=True))

    assert f"process {status.processes[0].pid} " in error.message
    assert "--exec-processes drop" in error.remedy
    assert rig.client.images() == []
    assert {call.action for call in rig.sim.calls()} <= {"init", "get-state"}
    assert rig.fine("job")


@pytest.mark.parametrize("runsc", ("new",), indirect=True)
@pytest.mark.parametrize("way", WAYS)
def test_gpu_process_of_an_exec_is_dropped_on_request(rig: Rig, way: str) -> None:
    """It runs on in the original, and the copy comes up without it."""
    _start(rig, way)
    pid = rig.sim.until_ready(rig.guest, "job").processes[0].pid

    made = rig.checkpoint("job", exec_processes=ExecProcesses.DROP)

    assert [(one.pid, one.dropped) for one in made.processes] == [(pid, True)]
    assert any(f"without process {pid} " in warning for warning in made.warnings)
    assert made.engine == "phased"
    assert rig.fine("job")
    back = rig.restore("copy", made.image_path)
    assert back.processes == ()
    error = refused(
        Refused,
        lambda: rig.checkpoint("job", "builtin", exec_processes=ExecProcesses.DROP),
    )
    assert "--engine phased" in error.remedy
    assert rig.fine("job")


def test_own_daemon_is_not_taken_for_an_execs(rig: Rig, engine: str) -> None:
    """What the container's own command has left in the background is saved and restored."""
    bundle = rig.sim.bundle("job", rig.settings(), inject_tool=False)
    with rig.edited(bundle) as spec:
        argv = spec["process"]["args"]
        script = 'setsid -f "$@" </dev/null >/dev/null 2>&1; exec sleep 1000'
        spec["process"]["args"] = ["/bin/sh", "-c", script, "sh", *argv]
    rig.client.create("job", str(bundle))
    rig.client.start("job")
    status = rig.sim.until_ready(rig.guest, "job")
    rig.execute("job", "probe", "/bin/true")
    rig.client.wait("job", "probe")

    made = rig.checkpoint("job", engine)

    assert made.warnings == ()
    assert [one.pid for one in made.processes] == [status.processes[0].pid]
    back = rig.restore("copy", made.image_path)
    assert back.processes == made.processes
    assert rig.fine("copy")
    assert rig.fine("job")


@pytest.mark.parametrize("runsc", ("new",), indirect=True)
def test_background_process_of_an_exec_is_named(rig: Rig) -> None:
    """A server without CUDA that an exec has left behind is warned of, by number and name."""
    rig.sleeper("plain")
    rig.execute("plain", "shell", "/bin/sh", "-c", "setsid -f sleep 500; sleep 600 &")
    rig.client.wait("plain", "shell")
    wait_until(lambda: len(rig.client.pids("plain")) == 3, "the two that stay", WAIT_S)
    left = sorted(rig.client.pids("plain"))[1:]

    made = rig.checkpoint("plain")

    (warning,) = made.warnings
    assert all(f"{pid} (sleep)" in warning for pid in left)
    assert "end in a restored copy" in warning
    rig.restore("copy", made.image_path)


def test_restore_fails_where_a_process_is_missing(rig: Rig, engine: str) -> None:
    """A process that is gone by the time of its thaw is named, and the new task is removed."""
    rig.workload("job")
    made = rig.checkpoint("job", engine)
    (process,) = made.processes
    rig.sim.faults(Fault(action="restore", kind=Kind.DIE))

    error = refused(CudaError, lambda: rig.restore("copy", made.image_path))

    assert f"process {process.pid} " in error.message
    assert [task.id for task in rig.client.list()] == ["job"]
