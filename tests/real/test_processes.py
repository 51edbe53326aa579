"""`cryo tasks ps` on real runsc: what runs in a task, and with which GPU state."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from shim.simgpu.simulation import wait_until
from tests.real.helpers_rig import WAIT_S, Rig

pytestmark = [pytest.mark.timeout(90), pytest.mark.every_combination]


def test_gpu_processes(rig: Rig) -> None:
    """Every GPU process has its command line, its device and the state of its GPU memory."""
    status = rig.workload("job", processes=2)

    listed = rig.client.processes("job")

    assert listed.warnings == ()
    assert [one.pid for one in listed.processes] == sorted(rig.client.pids("job"))
    by_pid = {one.pid: one for one in listed.processes}
    for pid in status.pids:
        one = by_pid[pid]
        assert (one.cuda_state, one.uid) == ("running", 0)
        assert any(path.startswith("/dev/nvidia") for path in one.gpu_devices)
        assert "/dev/simgpu/code/workload.py" in one.args
        assert one.memory_bytes is not None
        assert 1 << 20 < one.memory_bytes < 1 << 30
        assert one.gpu_bytes is None  # the driver counts both together
    assert by_pid[1].cuda_state is None
    assert rig.fine("job")


def test_memory_of_a_single_gpu_process(rig: Rig) -> None:
    """The GPU memory of a sandbox is that of its only process with a GPU."""
    [pid] = rig.workload("job", processes=1).pids

    [one] = [one for one in rig.client.processes("job").processes if one.pid == pid]

    assert one.gpu_bytes is not None
    assert one.gpu_bytes >= 1 << 20


def test_parked_task(rig: Rig) -> None:
    """Of a parked task, in which nothing can be asked, the recorded states are shown."""
    bundle = rig.sim.bundle("job", rig.settings(processes=2), inject_tool=False)
    with rig.edited(bundle) as spec:
        spec.setdefault("annotations", {})["io.cryo.park"] = "true"
    rig.client.create("job", str(bundle))
    rig.client.start("job")
    pids = rig.sim.until_ready(rig.guest, "job").pids
    rig.client.pause("job")

    listed = rig.client.processes("job")

    assert listed.warnings == ()
    states = {one.pid: one.cuda_state for one in listed.processes}
    assert [states[pid] for pid in pids] == ["checkpointed"] * len(pids)


def test_a_plain_task(rig: Rig) -> None:
    """Users and command lines are those in the container; an exited task has no process."""
    user = {"uid": 1234, "gid": 5}
    rig.program("job", "/bin/sh", "-c", "sleep 77 & wait", user=user)

    def begun() -> bool:
        return rig.client.processes("job").processes[-1].name == "sleep"

    wait_until(begun, "its child", WAIT_S)
    shell, child = rig.client.processes("job").processes

    assert (shell.args, shell.uid) == (("/bin/sh", "-c", "sleep 77 & wait"), 1234)
    assert (child.args, child.parent, child.uid) == (("sleep", "77"), shell.pid, 1234)
    assert (child.gpu_devices, child.cuda_state) == ((), None)
    rig.client.kill("job", 9, everyone=True)
    rig.client.wait("job")
    assert rig.client.processes("job").processes == ()


def test_what_a_user_sees(rig: Rig) -> None:
    """The command prints a row for each process."""
    status = rig.workload("job", processes=1)
    argv = [sys.executable, "-m", "shim.entry.cli", "-a", rig.sim.address]

    shown = subprocess.run(
        [*argv, "tasks", "ps", "job"], capture_output=True, text=True, check=True
    )
    argv += ["--output", "json", "tasks", "ps", "job"]
    rows = json.loads(subprocess.run(argv, capture_output=True, text=True, check=True).stdout)

    sys.stdout.write(shown.stdout)
    [line] = [line for line in shown.stdout.splitlines() if line.split()[0] == str(status.pids[0])]
    assert " running " in line
    assert "workload.py" in line
    assert {row["pid"] for row in rows} == set(rig.client.pids("job"))
