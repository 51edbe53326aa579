"""The sidecar's log of real containers: plain fields, and nothing that is secret."""

from __future__ import annotations

import signal

import pytest

from shim.errors import CudaError
from shim.simgpu.simulation import Fault, Kind
from shim.state import TaskState
from tests.builds import RunscBuild
from tests.real.helpers_rig import Output, machine_with, refused
from tests.wire.helpers_logs import lines_of

pytestmark = pytest.mark.timeout(120)
SECRET = "hunter2"  # noqa: S105 - no password: a text to be searched for


@pytest.mark.parametrize("form", ("logfmt", "json"))
def test_a_life_of_tasks(runsc_new: RunscBuild, form: str) -> None:
    """Events, failures, rollbacks and a recovery: each line can be parsed and names its request."""
    log = {"level": "debug", "format": form}
    with machine_with(runsc_new, log=log) as rig:
        rig.workload("job")
        output = Output(rig, SECRET)
        rig.program("plain", "/bin/sleep", "1000", stdio=output.stdio, env=[f"TOKEN={SECRET}"])
        process = {"args": ["/bin/true"], "cwd": "/", "env": [f"TOKEN={SECRET}"]}
        rig.client.exec("plain", "e", {**process, "user": {"uid": 0, "gid": 0}}, output.stdio)
        rig.client.start("plain", "e")
        rig.client.wait("plain", "e")
        image = rig.checkpoint("job", "phased").image_path
        rig.restore("copy", image)
        rig.sim.faults(Fault(action="checkpoint", kind=Kind.FAIL))
        refused(CudaError, lambda: rig.checkpoint("job", "phased"))
        rig.sim.faults()
        rig.end("plain", signal.SIGTERM)
        before = rig.sim.sidecar_log.read_text("utf-8")
        rig.sim.kill_sidecar()
        rig.sim.start_sidecar(log=log)
        assert {view.state for view in rig.client.list()} == {TaskState.RUNNING}
        text = before + rig.sim.sidecar_log.read_text("utf-8").removeprefix(before)
        rig.clear()

    lines = lines_of(text, form)
    assert SECRET not in text
    events = [line for line in lines if line["msg"].startswith("event ")]
    topics = {line["msg"].removeprefix("event /tasks/") for line in events}
    assert topics >= {"create", "start", "exec-added", "exec-started", "checkpointed", "exit"}
    assert [line for line in events if not (line["namespace"] and line["task"])] == []
    (failed,) = [one for one in lines if one.get("error") == "CudaError"]
    of_failed = [one for one in lines if one.get("operation") == failed["operation"]]
    assert {one["task"] for one in of_failed} == {"job"}
    assert {one["logger"] for one in of_failed} >= {
        "shim.service.service",
        "shim.service.ttrpc.connection",
    }
