"""Tasks survive the sidecar; many at once leave nothing behind."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from shim.errors import CryoError, IllegalState, Unavailable
from shim.model import Mount
from shim.simgpu.simulation import environment, wait_until
from shim.state import TaskState
from tests.builds import RunscBuild
from tests.real.helpers_rig import WAIT_S, Output, Rig, machine_with, refused

pytestmark = pytest.mark.timeout(120)
MANY = 20
# The status of SIGKILL for a process that lost its supervisor: not known before Linux 6.15.
ENDED_UNSEEN = (137, 255)


def children(pid: int) -> list[int]:
    """List the processes whose parent this is, dead ones too."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            fields = (entry / "stat").read_text("utf-8", "replace").rpartition(")")[2].split()
            if int(fields[1]) == pid:
                found.append(int(entry.name))
    return found


def supervisor(rig: Rig) -> int:
    """Find the supervisor of this machine's sidecar."""
    state = f"{rig.sim.folder}/state"
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            line = (entry / "cmdline").read_text("utf-8", "replace")
            if "shim.host.supervisor" in line and state in line:
                return int(entry.name)
    raise AssertionError("there is no supervisor")


def descriptors(pid: int) -> int:
    """Count what a process has open."""
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


# The sandbox hangs.


def test_a_sandbox_that_hangs_is_killed(runsc: RunscBuild) -> None:
    """KILL ends a task whose sentry does not answer, once runsc's time for it is over."""
    with machine_with(runsc, timeouts={"command": 2.0}) as rig:
        rig.sleeper("hangs")
        sandbox = rig.client.state("hangs").pid
        os.kill(sandbox, signal.SIGSTOP)

        rig.client.kill("hangs", signal.SIGKILL)

        assert rig.client.wait("hangs").status == 137
        rig.client.delete("hangs")
        assert rig.leftovers() == []


# Others have its process numbers by now.


def test_no_other_process_is_killed_by_a_late_delete(rig: Rig) -> None:
    """On a busy host a pid is soon reused; runsc kills the process that has it."""
    rig.sleeper("ended")
    rig.client.kill("ended", signal.SIGKILL)
    rig.client.wait("ended")
    [path] = (rig.sim.folder / "state" / "runsc" / "default").glob("ended+_*.state")
    with subprocess.Popen(["/bin/sleep", "1000"]) as innocent:
        state = json.loads(path.read_text("utf-8"))
        assert state["goferPid"] > 0
        state["goferPid"] = state["sandbox"]["pid"] = innocent.pid
        path.write_text(json.dumps(state), "utf-8")

        rig.client.delete("ended")

        assert innocent.poll() is None
        innocent.kill()
    assert rig.leftovers() == []


# The sidecar dies.


def test_tasks_and_execs_survive_a_crash(rig: Rig) -> None:
    """After kill -9 and a new start everything is as it was, and under control."""
    rig.workload("job", processes=2)
    rig.sleeper("paused")
    rig.client.pause("paused")
    rig.client.create("created", str(rig.bundle("created", ["/bin/sleep", "9"])))
    rig.program("stopped", "/bin/sh", "-c", "exit 7")
    rig.client.wait("stopped")
    rig.execute("job", "e", "/bin/sleep", "1000")
    before = {view.id: view for view in rig.client.list()}

    rig.crash()

    after = {view.id: view for view in rig.client.list()}
    assert after == before
    assert rig.client.state("job", "e").state is TaskState.RUNNING
    rig.client.kill("job", signal.SIGKILL, exec_id="e")
    assert rig.client.wait("job", "e").status == 137
    assert rig.fine("job")
    rig.client.resume("paused")
    rig.client.start("created")
    assert rig.end("created").status == 137
    assert rig.client.delete("stopped").exit == before["stopped"].exit


def test_exits_while_it_was_down_are_known(rig: Rig, tmp_path: Path) -> None:
    """Who ends while there is no sidecar has its true status afterwards, execs too."""
    go = tmp_path / "go"
    for name, status in (("zero", 0), ("seven", 7)):
        _waits_for(rig, name, go, status)
    rig.sleeper("killed")
    rig.sleeper("host")
    rig.execute("host", "e", "/bin/sh", "-c", "sleep 0.5; exit 9")
    killed = rig.client.state("killed").pid

    rig.sim.kill_sidecar()
    refused(Unavailable, rig.client.list)
    go.touch()
    os.kill(killed, signal.SIGKILL)
    wait_until(lambda: not _alive(killed), "its end", WAIT_S)
    wait_until(lambda: len(rig.sandboxes()) <= 3, "the other ends", WAIT_S)
    rig.start_sidecar()
    go.unlink()

    ends = {name: rig.client.wait(name).status for name in ("zero", "seven", "killed")}
    assert ends == {"zero": 0, "seven": 7, "killed": 137}
    assert rig.client.wait("host", "e").status == 9
    assert rig.client.state("host").state is TaskState.RUNNING


def _waits_for(rig: Rig, name: str, go: Path, status: int) -> None:
    """Start a task that ends when a file of the host appears."""
    script = f"until [ -e /dev/go/{go.name} ]; do sleep 0.05; done; exit {status}"
    bundle = rig.bundle(name, ["/bin/sh", "-c", script])
    with rig.edited(bundle) as spec:
        mount = {"destination": "/dev/go", "type": "bind", "source": str(go.parent)}
        spec["mounts"].append({**mount, "options": ["bind", "ro"]})
    rig.client.create(name, str(bundle))
    rig.client.start(name)


def _alive(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()


def test_graceful_stop_leaves_the_tasks(rig: Rig) -> None:
    """SIGTERM ends the sidecar, with status 0 and no traceback, and no task."""
    rig.workload("job")
    assert rig.sim.stop_sidecar(signal.SIGTERM) == 0
    refused(Unavailable, rig.client.list)
    rig.start_sidecar()

    assert rig.fine("job")
    assert "Traceback" not in rig.sim.sidecar_log.read_text("utf-8")


def test_crash_upon_crash(rig: Rig) -> None:
    """Five crashes later the task is the same, and there is still one supervisor."""
    rig.sleeper("job")
    before, first = rig.client.state("job"), supervisor(rig)
    for _ in range(5):
        rig.crash()
    assert rig.client.state("job") == before
    assert supervisor(rig) == first


def test_supervisor_that_is_killed_is_followed_by_another(rig: Rig) -> None:
    """After kill -9 of the supervisor exec, create, kill and exits work, without a restart."""
    for name in ("killed", "kept"):
        rig.sleeper(name)
    rig.execute("kept", "before", "/bin/sh", "-c", "sleep 1000")
    first = supervisor(rig)

    os.kill(first, signal.SIGKILL)

    rig.execute("kept", "after", "/bin/sh", "-c", "exit 7")
    assert rig.client.wait("kept", "after").status == 7
    assert supervisor(rig) != first
    rig.client.kill("kept", signal.SIGKILL, exec_id="before")
    assert rig.client.wait("kept", "before").status in ENDED_UNSEEN
    rig.client.kill("killed", signal.SIGKILL)
    assert rig.client.wait("killed").status in ENDED_UNSEEN
    rig.program("new", "/bin/sh", "-c", "exit 5")
    assert rig.client.wait("new").status == 5
    rig.crash()
    assert rig.client.state("kept").state is TaskState.RUNNING
    rig.client.kill("kept", signal.SIGKILL)
    assert rig.client.wait("kept").status in ENDED_UNSEEN
    for name in ("killed", "kept", "new"):
        rig.client.delete(name)
    assert rig.leftovers() == []


def test_second_sidecar_is_refused(rig: Rig) -> None:
    """One owner per state folder: another one ends at once and disturbs nothing."""
    rig.sleeper("job")
    argv = [sys.executable, *rig.sim.serve, "--config", str(rig.sim.folder / "config.toml")]

    second = rig.sim.remote.run(argv, env=environment(), cwd=str(rig.sim.folder))

    assert second.status not in (0, 1)
    assert "Traceback" not in second.err
    assert "state" in second.err
    assert rig.client.state("job").state is TaskState.RUNNING


# Many at once.


@pytest.fixture
def flat(rig: Rig) -> Iterator[Rig]:
    """Give a machine on which descriptors and processes must be as many afterwards."""
    rig.sleeper("warm")
    rig.end("warm")
    before = descriptors(rig.sim.sidecar_pid), descriptors(supervisor(rig))
    yield rig
    rig.clear()
    wait_until(
        lambda: children(supervisor(rig)) == [], "the end of the supervisor's children", WAIT_S
    )
    after = descriptors(rig.sim.sidecar_pid), descriptors(supervisor(rig))
    # A connection of the client's may come or go.
    assert after[0] - before[0] <= 2, (before, after)
    assert after[1] == before[1], (before, after)
    assert children(rig.sim.sidecar_pid) == []


def test_many_tasks_at_once_leave_nothing(flat: Rig, tmp_path: Path) -> None:
    """Twenty lives side by side, with a root filesystem of containerd's kind each."""
    rig = flat

    def live(number: int) -> int:
        name = f"t{number}"
        output = Output(rig, name)
        bundle = rig.bundle(name, ["/bin/sh", "-c", f"echo {number}; exit {number}"])
        with rig.edited(bundle) as spec:
            spec["root"]["path"] = "rootfs"
        (bundle / "rootfs").mkdir()
        mount = Mount(type="bind", source=str(rig.sim.folder / "rootfs"), options=("rbind", "ro"))
        rig.client.create(name, str(bundle), rootfs=[mount], stdio=output.stdio)
        rig.client.start(name)
        status = rig.client.wait(name).status
        assert output.text() == f"{number}\n"
        rig.client.delete(name)
        assert not os.path.ismount(bundle / "rootfs")
        return status

    with ThreadPoolExecutor(6) as pool:
        assert list(pool.map(live, range(MANY))) == list(range(MANY))
    assert rig.client.list() == []


def test_many_checkpoints_leave_nothing(flat: Rig) -> None:
    """A task that is saved and restored again and again costs no descriptor and no process."""
    rig = flat
    rig.sleeper("job")
    for number in range(4):
        made = rig.checkpoint("job")
        rig.restore(f"copy{number}", made.image_path)
        rig.end(f"copy{number}")


def test_many_execs_leave_nothing(flat: Rig) -> None:
    """Thirty programs in one task, several at a time."""
    rig = flat
    rig.sleeper("job")

    def once(number: int) -> int:
        name = f"e{number}"
        rig.execute("job", name, "/bin/sh", "-c", f"exit {number}")
        status = rig.client.wait("job", name).status
        rig.client.delete("job", name)
        return status

    with ThreadPoolExecutor(5) as pool:
        assert list(pool.map(once, range(30))) == list(range(30))
    assert rig.client.pids("job") == [1]


def test_failures_leave_nothing(flat: Rig, tmp_path: Path) -> None:
    """What was refused costs nothing either."""
    rig = flat
    rig.sleeper("job")
    taken = tmp_path / "taken"
    taken.mkdir()
    for _ in range(5):
        for call in (
            lambda: rig.execute("job", "e", "/no/such/program"),
            lambda: rig.program("bad", "/no/such/program"),
            lambda: rig.checkpoint("job", image_path=str(taken)),
            lambda: rig.restore("copy", taken),
        ):
            with pytest.raises(CryoError):
                call()
        rig.client.delete("job", "e")
        rig.client.delete("bad")
    refused(IllegalState, lambda: rig.client.delete("job"))
