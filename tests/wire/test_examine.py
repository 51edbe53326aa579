"""The examination of a task over the wire, and the command that shows it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from shim.client import AsyncClient
from shim.entry.cli import exits
from shim.errors import NotFound
from shim.finding import Area, Level
from shim.model import CreateRequest, TaskRef
from shim.service import examine_operations
from shim.service.service import Beside, Service
from shim.service.shims import Shims
from tests.wire.conftest import Cryo
from tests.wire.fakes import FINDINGS, FakeTask, FakeTasks, as_tasks
from tests.wire.test_shims import a_shim, ref

A = TaskRef(namespace="default", id="a")


async def test_findings_arrive_as_they_were(client: AsyncClient, core: FakeTasks) -> None:
    """Each has its class, subject, level, text and remedy."""
    core.tasks[A] = FakeTask(CreateRequest(ref=A, bundle="/b"))

    assert await client.examine("a") == [*FINDINGS]
    assert core.calls == [("examine", A)]


async def test_a_task_of_a_shim_is_examined_by_it(tmp_path: Path) -> None:
    """The sidecar forwards the request to the shim that owns the task."""
    service = Service(as_tasks(FakeTasks()), shims=Shims(tmp_path, rollback_s=1.0))
    call = examine_operations.examine(ref("a"))

    async with a_shim(tmp_path, "a") as core:
        beside = Beside(namespace=call.namespace)
        answer = await service.unary(call.operation, call.request.SerializeToString(), beside)

    assert call.read(call.operation.response.FromString(answer)) == [*FINDINGS]
    assert core.calls == [("examine", ref("a"))]


def test_what_only_a_newer_version_says() -> None:
    """A class that is not known is that of a check, and a level a warning."""
    call = examine_operations.examine(A)
    answer = call.operation.response()
    answer.findings.add(area="orbit", level="dire", subject="x", text="y", remedy="z")

    (one,) = call.read(answer)

    assert (one.area, one.level) == (Area.CHECK, Level.WARNING)


@pytest.mark.usefixtures("task")
def test_the_command_names_what_fails(cryo: Cryo) -> None:
    """A line for each finding, and the exit code of the first class that fails."""
    code, out, err = cryo("doctor", "a")

    head, state, processes = out.splitlines()
    assert (code, err) == (23, "")
    assert head.split() == ["LEVEL", "CLASS", "SUBJECT", "FINDING"]
    assert state.split() == ["ok", "task", "state", "running"]
    assert processes.endswith("cuda-checkpoint is not in the container; install it")


@pytest.mark.usefixtures("task")
def test_as_json(cryo: Cryo) -> None:
    """The form is that of the host's report."""
    code, out, _ = cryo("--output", "json", "doctor", "a")

    read = json.loads(out)
    assert read["exit_code"] == code == 23
    assert [one["class"] for one in read["findings"]] == ["task", "gpu"]


@pytest.mark.usefixtures("task")
def test_a_task_that_does_not_exist(cryo: Cryo) -> None:
    """It is the usual error, not a finding."""
    code, out, err = cryo("doctor", "b")

    assert (code, out) == (exits.code_of(NotFound("x")), "")
    assert "no task b" in err


@pytest.mark.usefixtures("task")
@pytest.mark.parametrize("word", ("--repair", "--config=x", "--containerd-config=x"))
def test_options_of_the_host_alone(cryo: Cryo, word: str) -> None:
    """They are refused for a task."""
    code, _, err = cryo("doctor", word, "a")

    assert code == exits.USAGE
    assert "about the host" in err
