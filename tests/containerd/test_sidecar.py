"""The sidecar beside containerd: `cryo` reaches its tasks through the shims that own them."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from shim.simgpu.simulation import Fault, Kind, Settings, Simulation, wait_until
from tests.containerd import gpu
from tests.containerd.beside import Beside, serving
from tests.containerd.cryo import COUNT, COUNTS, RUNTIME, Cryo
from tests.real.test_metrics import Scraped
from tests.wire.helpers_logs import lines_of


@pytest.fixture(scope="module")
def beside(cryo: Cryo) -> Iterator[Beside]:
    """Yield a client of a sidecar with the settings of the shims."""
    with serving(cryo) as client:
        cryo.know()
        yield client
    cryo.know()


@pytest.fixture(autouse=True)
def nothing_of_it_left(cryo: Cryo, beside: Beside) -> Iterator[None]:
    """Check that nothing is left of the test but the sidecar's own directories."""
    yield
    cryo.expect_nothing_new((f"{cryo.state}/runsc/", f"{cryo.state}/tasks/"))


def test_control(cryo: Cryo, beside: Beside) -> None:
    """Containerd's tasks are listed, and exec, ps, metrics, pause, resume and kill work."""
    with cryo.container("sh", "-c", COUNT) as name:
        cryo.until_counts(name)
        (listed,) = beside.ask("tasks", "ls")
        assert (listed["id"], listed["state"]) == (name, "running")
        assert listed["pid"] == cryo.tasks()[name][0]
        ran = beside("tasks", "exec", name, "sh", "-c", "echo in; exit 3", check=False)
        assert (ran.out, ran.status) == ("in\n", 3)
        first = beside.ask("tasks", "ps", name)[0]
        assert (first["pid"], first["args"]) == (1, ["sh", "-c", COUNT])
        assert beside("tasks", "metrics", name).out
        beside("tasks", "pause", name)
        assert cryo.status(name) == "PAUSED"
        beside("tasks", "resume", name)
        assert cryo.status(name) == "RUNNING"
        beside("tasks", "kill", "--signal", "KILL", name)
        cryo.until_status(name, "STOPPED")
        assert "exit code 137" in cryo.ctr("tasks", "delete", name).err


def test_a_shim_that_hangs_is_listed_as_such(cryo: Cryo, beside: Beside) -> None:
    """A task whose shim hangs is listed with a warning, and those of other shims as usual."""
    with cryo.container("sleep", "1000") as name, cryo.container("sleep", "1000") as other:
        shim = cryo.shim_of(name)
        os.kill(shim, signal.SIGSTOP)
        try:
            listed = {task["id"]: task for task in beside.ask("tasks", "ls")}
        finally:
            os.kill(shim, signal.SIGCONT)

        assert {name: task["state"] for name, task in listed.items()} == {
            name: "running",
            other: "running",
        }
        assert "its shim does not answer" in listed[name]["warning"]
        assert not listed[other].get("warning")


def test_a_checkpoint_that_stays(cryo: Cryo, beside: Beside) -> None:
    """`cryo tasks checkpoint` saves containerd's task directly to the given path."""
    path = cryo.folder / "images" / cryo.fresh("direct")
    with cryo.container("sh", "-c", COUNT) as name:
        cryo.until_counts(name)
        with cryo.events() as events:
            beside("tasks", "checkpoint", "--image-path", str(path), name)
            assert str(path) in events.until("/tasks/checkpointed")[0].body
        assert (path / "cryo.json").is_file()
        assert cryo.status(name) == "RUNNING"
        cryo.until_counts(name)


def test_what_a_shim_did_is_counted_and_logged(cryo: Cryo, beside: Beside) -> None:
    """The sidecar counts a checkpoint of a shim, and both logs have it under one operation id."""
    path = cryo.folder / "images" / cryo.fresh("counted")
    of = {"operation": "checkpoint"}
    with cryo.container("sh", "-c", COUNT) as name:
        cryo.until_counts(name)
        before = Scraped(beside.metrics)
        beside("tasks", "checkpoint", "--image-path", str(path), name)
        after = Scraped(beside.metrics)

    def more(sample: str, **labels: str) -> float:
        return after.value(sample, **labels) - before.value(sample, **labels)

    running = {"owner": "shim", "namespace": cryo.namespace, "state": "running"}
    assert after.value("cryo_tasks", **running) == 1
    assert more("cryo_operation_duration_seconds_count", **of) == 1
    assert more("cryo_phase_duration_seconds_count", **of, phase="save") == 1
    assert more("cryo_image_bytes_total", **of) > 0
    assert more("cryo_request_duration_seconds_count", method="Checkpoint") == 1
    lines = lines_of(beside.log.read_text("utf-8"))
    line = [one for one in lines if one.get("method") == "Checkpoint"][-1]
    assert (line["forwarded"], line["task"]) == ("true", name)
    ours = f"operation={line['operation']} "
    logged = [one for one in cryo.log_path.read_text("utf-8").splitlines() if ours in one]
    assert [one for one in logged if "runtime=cryo" in one and f"task={name} " in one]


def test_a_task_of_a_shim_is_examined(cryo: Cryo, beside: Beside) -> None:
    """`cryo doctor TASK` is answered by the shim: all is well with it, and a session is named."""
    with cryo.container("sh", "-c", COUNT) as name:
        cryo.until_counts(name)
        found = beside.ask("doctor", name)
        beside("tasks", "pause", name)
        paused = beside.ask("doctor", name)
        beside("tasks", "resume", name)
        assert beside.ask("timeline", "--no-measure", name)["timelines"] == []
        cryo.until_counts(name)

    levels = {one["level"] for one in found["findings"]}
    texts = {one["subject"]: one["text"] for one in found["findings"]}
    assert (levels, found["exit_code"]) == ({"ok"}, 0)
    assert texts["state"] == "running"
    assert str(cryo.state) not in texts["image"]
    assert [one["text"] for one in paused["findings"] if one["subject"] == "state"] == ["paused"]


def test_events_of_shims(cryo: Cryo, beside: Beside, tmp_path: Path) -> None:
    """`cryo events` has the life of containerd's tasks, and the operations of their shims."""
    path = cryo.folder / "images" / cryo.fresh("followed")
    pid = beside.following(tmp_path / "events")
    lines: list[dict[str, Any]] = []

    def has(kind: str) -> bool:
        text = (tmp_path / "events").read_text("utf-8")
        lines[:] = [json.loads(line) for line in text.splitlines()]
        return any((one["kind"], one.get("task")) == (kind, name) for one in lines)

    with cryo.container("sh", "-c", COUNT) as name:
        cryo.until_counts(name)
        beside("tasks", "checkpoint", "--image-path", str(path), name)
        failed = beside("tasks", "checkpoint", "--image-path", str(path), name, check=False)
        wait_until(lambda: has("checkpoint-finished"), "the end of the checkpoint", 60)
    wait_until(lambda: has("delete"), "the end of the task", 60)
    cryo.place.remote.kill(pid, signal.SIGINT)

    assert cryo.place.remote.wait(pid, 20.0) == 0
    assert failed.status != 0
    assert lines[0]["fields"] == {"containerd": "connected"}
    own = [one for one in lines if (one.get("task"), one["fields"].get("id", name)) == (name, name)]
    # To count is an exec.
    assert [one["kind"] for one in own if not one["kind"].startswith("exec-")] == [
        "create",
        "start",
        "checkpoint-started",
        "checkpoint-finished",
        "checkpointed",
        "exit",
        "delete",
    ]
    (finished,) = [one for one in lines if one["kind"] == "checkpoint-finished"]
    assert finished["fields"]["image_path"] == str(path)
    assert int(finished["fields"]["size_bytes"]) > 0


def test_a_checkpoint_that_ends(cryo: Cryo, beside: Beside) -> None:
    """`--exit` works on every line; the image is restored as a task of the sidecar."""
    path = cryo.folder / "images" / cryo.fresh("direct")
    again = cryo.fresh("own")
    with cryo.container("sh", "-c", COUNT) as name:
        counted = cryo.until_counts(name)
        beside("tasks", "checkpoint", "--exit", "--image-path", str(path), name)
        cryo.until_status(name, "STOPPED")
        beside("tasks", "restore", "--image-path", str(path), again)
        try:
            assert int(beside("tasks", "exec", again, "sh", "-c", COUNTS).out) >= counted
        finally:
            beside("tasks", "kill", "--signal", "KILL", again, check=False)
            beside("tasks", "wait", again, check=False)
            beside("tasks", "delete", again, check=False)


def test_a_checkpoint_that_is_broken_off(
    cryo: Cryo, beside: Beside, simulation: Simulation, tmp_path: Path
) -> None:
    """Ctrl-C in the client rolls back in the shim: the task works on, without an image."""
    path = cryo.folder / "images" / cryo.fresh("never")
    name, guest = cryo.fresh("job"), gpu.CtrGuest(cryo)
    with cryo.removing(name):
        two = Settings(processes=2)
        gpu.start_on_image(simulation, cryo, name, runtime=RUNTIME, settings=two)
        simulation.until_ready(guest, name)
        simulation.calls(clear=True)
        simulation.faults(Fault(action="checkpoint", kind=Kind.HANG, nth=2))
        # The rollback waits for runsc's engine: its save cannot be interrupted.
        how = ("--engine", "phased", "--image-path", str(path))
        argv = beside.argv("tasks", "checkpoint", *how, name)
        pid = cryo.place.remote.spawn(argv, output=tmp_path / "said", env=cryo.env)
        try:
            simulation.until_called("checkpoint", 2)
            os.kill(pid, signal.SIGINT)
            assert cryo.place.remote.wait(pid, 20.0) not in {None, 0}
        finally:
            simulation.faults()
        cryo.until_status(name, "RUNNING")
        assert simulation.works(guest, name)
        assert simulation.verify(guest, name).intact
        assert not path.exists()
