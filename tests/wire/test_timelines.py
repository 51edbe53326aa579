"""Timelines over the wire, and the command that shows them."""

from __future__ import annotations

import json
from pathlib import Path
from xml.etree import ElementTree as ET

import msgspec
import pytest

from shim.client import AsyncClient
from shim.model import CreateRequest, TaskRef
from shim.service import timeline_operations
from shim.service.service import Beside, Service
from shim.service.shims import Shims
from tests.wire.conftest import Cryo, Sidecar
from tests.wire.fakes import SPEEDS, TIMELINE, FakeTask, FakeTasks, as_tasks
from tests.wire.test_shims import a_shim, ref

A = TaskRef(namespace="default", id="a")


async def test_a_timeline_carries_everything(client: AsyncClient, core: FakeTasks) -> None:
    """What was recorded of a task, and of an image, arrives as it was."""
    core.tasks[A] = FakeTask(CreateRequest(ref=A, bundle="/b"))

    first, second = await client.timelines("a")

    assert first == TIMELINE
    assert (second.operation, second.error) == ("park", "it failed")
    assert await client.image_timeline("/images/a") == TIMELINE
    assert core.calls == [("timelines", A), ("timeline", "/images/a", "default")]


async def test_speeds_that_were_not_measured_stay_unknown(
    client: AsyncClient, core: FakeTasks
) -> None:
    """An absent speed is None, and not 0."""
    assert await client.speeds("/images/a") == SPEEDS
    assert SPEEDS.disk_read is None
    assert core.calls == [("speeds", "/images/a")]


async def test_the_timelines_of_a_shim_are_forwarded(tmp_path: Path) -> None:
    """The sidecar asks the shim that owns the task."""
    service = Service(as_tasks(FakeTasks()), shims=Shims(tmp_path, rollback_s=1.0))
    call = timeline_operations.timelines(ref("a"))

    async with a_shim(tmp_path, "a") as core:
        beside = Beside(namespace=call.namespace)
        answer = await service.unary(call.operation, call.request.SerializeToString(), beside)

    assert call.read(call.operation.response.FromString(answer))[0] == TIMELINE
    assert core.calls == [("timelines", ref("a"))]


@pytest.mark.usefixtures("task")
def test_a_task_is_shown_on_80_columns(cryo: Cryo) -> None:
    """Not on a terminal there are no colors, and no line is longer."""
    code, out, err = cryo("timeline", "a")

    lines = out.splitlines()
    assert (code, err) == (0, "")
    assert max(map(len, lines)) <= 80
    assert "\x1b" not in out
    assert lines[0].startswith("checkpoint of a, 2.50 s, frozen 2.25 s")
    out = " ".join(out.split())
    assert "2.0 GiB at 1.1 GB/s: bound by the disk, 107% of what this disk writes" in out
    assert "failed: it failed" in out
    assert "this machine now, /images: disk writes 1.0 GB/s" in out


@pytest.mark.usefixtures("task")
def test_the_last_operation_of_a_task(cryo: Cryo, sidecar: Sidecar) -> None:
    """With --last only so many are shown, and --no-measure leaves the disk alone."""
    code, out, _ = cryo("timeline", "--last", "1", "--no-measure", "a")

    assert (code, out.startswith("park of a")) == (0, True)
    assert ("speeds", "/images/a") not in sidecar.core.calls


@pytest.mark.usefixtures("task")
@pytest.mark.parametrize("image", ("/images/b", "llama:warm", "llama"))
def test_an_image_by_path_or_name(cryo: Cryo, sidecar: Sidecar, image: str) -> None:
    """What is not the id of a task is an image."""
    code, out, _ = cryo("timeline", image)

    assert (code, image in out) == (0, True)
    assert ("timeline", image, "default") in sidecar.core.calls


@pytest.mark.usefixtures("task")
def test_neither_a_task_nor_an_image(cryo: Cryo) -> None:
    """The error names both."""
    code, _, err = cryo("timeline", "nothing")

    assert code != 0
    assert "neither a task nor an image nothing" in err


@pytest.mark.usefixtures("task")
def test_as_svg_and_json(cryo: Cryo, tmp_path: Path) -> None:
    """The drawing is well-formed, and the JSON has all that is drawn."""
    path = tmp_path / "a.svg"

    code, out, _ = cryo("--output", "json", "timeline", "--svg", str(path), "a")

    read = json.loads(out)
    assert code == 0
    root = ET.fromstring(path.read_text("utf-8"))  # noqa: S314 - our own
    assert root.tag.endswith("svg")
    assert read["speeds"] == msgspec.to_builtins(SPEEDS)
    assert [one["operation"] for one in read["timelines"]] == ["checkpoint", "park"]
    assert read["timelines"][0]["bounds"][-1]["phase"] == "save"
    assert read["timelines"][0]["shares"]["total_s"] == 2.5


@pytest.mark.usefixtures("task")
def test_a_drawing_that_cannot_be_written(cryo: Cryo, tmp_path: Path) -> None:
    """The error names the file."""
    code, _, err = cryo("timeline", "--svg", str(tmp_path / "none" / "a.svg"), "a")

    assert code != 0
    assert "a.svg" in err
