"""`cryo doctor TASK` of running GPU containers: all well, and planted faults of each kind."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from shim.doctor.report import Report
from shim.errors import CryoError
from shim.finding import Finding, Level
from shim.simgpu.fault import Fault, Kind
from shim.simgpu.simulation import wait_until
from tests import cgroups
from tests.builds import RunscBuild
from tests.faults.memory import Memory, limits
from tests.real.helpers_rig import WAIT_S, Background, Rig, machine_with

pytestmark = pytest.mark.timeout(180)
ROOT = Path(__file__).parents[2]
_MIB = 1 << 20


def doctor(rig: Rig, name: str) -> Report:
    """Ask as a user does, with the program."""
    argv = [sys.executable, "-m", "shim.entry.cli", "-a", rig.sim.address]
    done = subprocess.run(
        [*argv, "--output", "json", "doctor", name],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    found = msgspec.json.decode(done.stdout, type=Report)
    assert (found.exit_code, done.stderr) == (done.returncode, ""), done
    assert all(one.remedy for one in found.findings if one.level is not Level.OK), found
    return found


def not_well(report: Report) -> dict[str, Finding]:
    """Return what is a warning or a failure, by its subject."""
    found = [one for one in report.findings if one.level is not Level.OK]
    assert len({one.subject for one in found}) == len(found), found
    return {one.subject: one for one in found}


def without_sizes(text: str) -> str:
    """Return a text with a word for each size in it."""
    return re.sub(r"[\d.]+ [KMG]iB", "SIZE", text)


def refusal(rig: Rig, name: str) -> CryoError:
    """Return the error of a checkpoint."""
    with pytest.raises(CryoError) as caught:
        rig.checkpoint(name)
    return caught.value


@pytest.mark.every_combination
def test_a_task_that_can_be_checkpointed(rig: Rig) -> None:
    """All is well, its processes run on, and no tool but the question for states was called."""
    pids = rig.workload("job", processes=2).pids
    rig.sim.calls(clear=True)

    found = doctor(rig, "job")

    assert found.exit_code == 0
    assert not_well(found) == {}
    texts = {one.subject: one.text for one in found.findings}
    assert texts["state"] == "running"
    assert all(f"{pid} (" in texts["CUDA processes"] for pid in pids)
    assert texts["CUDA processes"].count("running") == 2
    assert texts["engine"] == ("builtin" if rig.build.has_builtin else "phased")
    assert "fingerprint" in texts["restore elsewhere"]
    assert {call.action for call in rig.sim.calls()} <= {"init", "get-state"}
    assert rig.client.images() == []
    assert not (rig.sim.folder / "state/tasks/default/job/journal.json").exists()
    assert rig.fine("job")


def test_a_task_that_was_not_started_and_one_that_ended(rig: Rig) -> None:
    """The state is the only finding, with what to do about it."""
    rig.client.create("new", str(rig.bundle("new", ["/bin/sleep", "1000"])))
    rig.sleeper("old")
    rig.client.kill("old", signal.SIGKILL)
    rig.client.wait("old")

    for name, remedy in (("new", "start it first"), ("old", "it has exited")):
        found = doctor(rig, name)
        assert found.exit_code == 28
        assert [one.subject for one in found.findings] == ["state"]
        assert remedy in found.findings[0].remedy
        assert found.findings[0].text == refusal(rig, name).message


def test_paused_and_parked(rig: Rig) -> None:
    """A paused task stays paused, and cannot be looked into; of a parked one all is known."""
    rig.workload("paused")
    rig.client.pause("paused")
    bundle = rig.sim.bundle(
        "parked", rig.settings(), inject_tool=False, annotations={"io.cryo.park": "true"}
    )
    rig.client.create("parked", str(bundle))
    rig.client.start("parked")
    rig.sim.until_ready(rig.guest, "parked")
    rig.client.pause("parked")

    assert list(not_well(doctor(rig, "paused"))) == ["CUDA processes"]
    parked = doctor(rig, "parked")

    assert {one.text for one in parked.findings if one.subject == "state"} == {"parked"}
    assert {view.id: view.state for view in rig.client.list()} == {
        "parked": "paused",
        "paused": "paused",
    }
    for name in ("paused", "parked"):
        rig.client.resume(name)
        assert rig.fine(name)


@pytest.mark.every_combination
def test_what_a_session_and_an_open_device_are(rig: Rig) -> None:
    """On the old runsc they are failures, on the new one warnings; both are found at once."""
    rig.workload("job", processes=2, nvml_only=1)
    rig.execute("job", "session", "/bin/sleep", "1000")

    found = not_well(doctor(rig, "job"))

    level = Level.WARNING if rig.build.has_builtin else Level.FAILURE
    assert {name: one.level for name, one in found.items()} == {
        "exec processes": level,
        "GPU devices": level,
    }
    assert "sleep" in found["exec processes"].text
    if level is Level.FAILURE:
        assert refusal(rig, "job").message in {one.text for one in found.values()}
    assert rig.fine("job")


# The old runsc keeps what an exec has left behind, and live sessions are refused.
@pytest.mark.parametrize("runsc", ("new",), indirect=True)
def test_a_gpu_process_of_an_exec(rig: Rig) -> None:
    """No restore brings it back, so it is a failure, as it is for a checkpoint."""
    bundle = rig.sim.bundle("job", rig.settings(), inject_tool=False)
    with rig.edited(bundle) as spec:
        argv, spec["process"]["args"] = spec["process"]["args"], ["/bin/sleep", "1000"]
        env = spec["process"]["env"]
    rig.client.create("job", str(bundle))
    rig.client.start("job")
    process = {"args": argv, "cwd": "/", "env": env, "user": {"uid": 0, "gid": 0}}
    rig.client.exec("job", "work", process)
    rig.client.start("job", "work")
    rig.sim.until_ready(rig.guest, "job")

    found = [one for one in doctor(rig, "job").findings if one.level is Level.FAILURE]

    assert [one.subject for one in found] == ["exec processes"]
    assert (found[0].text, found[0].remedy) == (
        (error := refusal(rig, "job")).message,
        error.remedy,
    )


@pytest.fixture
def limited(runsc_new: RunscBuild) -> Iterator[Rig]:
    """Give a machine with limits of memory, without a tool, and with little room for images."""
    with machine_with(
        runsc_new,
        runsc__flags={"ignore-cgroups": "false"},
        store={"quota": "1MiB"},
        cuda={"helper": "never"},
    ) as rig:
        yield rig
        rig.clear()
        assert rig.leftovers() == []


def test_memory_disk_and_tool_at_once(limited: Rig) -> None:
    """Each is found, although a checkpoint names only the first of them."""
    rig = limited
    group = f"{rig.sim.folder.name}-job"
    bundle = rig.sim.bundle("job", rig.settings(device_bytes=48 * _MIB), inject_tool=False)
    with rig.edited(bundle) as spec:
        spec["linux"]["cgroupsPath"] = f"/{group}"
    rig.client.create("job", str(bundle))
    rig.client.start("job")
    rig.sim.until_ready(rig.guest, "job")
    [memory] = [Memory(path) for path in cgroups.starting(group) if limits(path)]
    memory.leave(24 * _MIB)

    found = not_well(doctor(rig, "job"))

    assert {name: one.level for name, one in found.items()} == {
        "memory for a freeze": Level.FAILURE,
        "image": Level.FAILURE,
    }
    assert "memory limit leaves" in found["memory for a freeze"].text
    assert "quota" in found["image"].text
    # How much memory the task has changes from one moment to the next.
    seen = {without_sizes(one.text) for one in found.values()}
    assert without_sizes(refusal(rig, "job").message) in seen
    memory.feed()
    assert list(not_well(doctor(rig, "job"))) == ["image"]
    assert rig.fine("job")


def test_a_checkpoint_under_way(rig: Rig) -> None:
    """It is not waited for: the task is busy, and that is what is said."""
    rig.workload("job")
    rig.sim.faults(Fault(action="lock", kind=Kind.SLOW, seconds=2.0))
    rig.sim.calls(clear=True)
    under_way = Background(lambda: rig.checkpoint("job", "phased"))
    wait_until(lambda: bool(rig.sim.calls()), "the checkpoint", WAIT_S)

    found = doctor(rig, "job")

    assert [one.subject for one in found.findings] == ["state"]
    assert "checkpointing" in found.findings[0].text
    under_way.result()
    assert rig.fine("job")
