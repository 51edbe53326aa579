"""What the overview joins: requests, journals of all owners, timelines, and the tasks."""

from __future__ import annotations

import asyncio
import os
from datetime import timedelta
from pathlib import Path

import pytest
from msgspec.structs import replace

from shim.errors import Unavailable
from shim.model import Phase, Progress, Report, Span, TaskView, utcnow
from shim.page.history import History, TimelineFiles
from shim.page.operations import Change, Ended, Operations, Running
from shim.page.overview import TASKS_MAX, operations, task_table
from shim.service.watched import Begun
from shim.state import TaskState
from shim.task.state_files import OpenJournal, StateFiles
from shim.transaction import timeline_file
from tests.unit.test_metrics_observer import SAVED
from tests.wire.fakes import IMAGE

JOURNAL = OpenJournal(
    namespace="ns",
    task="a",
    operation="checkpoint",
    phase=Phase.FREEZE,
    age_s=2.5,
    is_parked=False,
    processes={"7": "locked"},
)
RUNNING = Running(
    number=1,
    name="checkpoint",
    namespace="ns",
    task="a",
    image="",
    forwarded=False,
    elapsed_s=3.0,
    phase=Phase.LOCK,
    processes={"7": "running", "8": "running"},
)
VIEW = TaskView(
    namespace="ns", id="a", bundle="/b", pid=1, state=TaskState.PAUSED, created_at=utcnow()
)


def test_a_request_and_its_journal_are_one_operation() -> None:
    """The progress has the phase, and the journal the newest state of each process."""
    (one,) = operations([RUNNING], [JOURNAL])

    assert one.running.phase is Phase.LOCK
    assert one.running.processes == {"7": "locked", "8": "running"}
    assert one.source == ""


def test_a_save_under_a_name_is_a_checkpoint() -> None:
    """Its journal is not shown as another operation."""
    assert len(operations([replace(RUNNING, name="save name")], [JOURNAL])) == 1


@pytest.mark.parametrize("other", ({"task": "b"}, {"namespace": "other"}, {"operation": "restore"}))
def test_a_journal_of_something_else(other: dict[str, str]) -> None:
    """It is an operation of its own."""
    first, second = operations([RUNNING], [replace(JOURNAL, **other)])

    assert first.running == RUNNING
    assert (second.running.phase, second.running.elapsed_s) == (Phase.FREEZE, 2.5)
    assert second.source


def test_a_forwarded_request_is_where_its_journal_is() -> None:
    """The shim sends no progress to the sidecar."""
    (one,) = operations([replace(RUNNING, forwarded=True)], [JOURNAL])

    assert one.running.phase is Phase.FREEZE
    assert one.running.elapsed_s == 3.0
    assert one.source


def test_a_parked_task() -> None:
    """It is no operation under way, but a state of the task, with what it has released."""
    parked = replace(JOURNAL, operation="park", is_parked=True, gpu_bytes=3 << 30)

    assert operations([], [parked]) == []
    (row,) = task_table([VIEW], [parked], History()).namespaces["ns"]
    assert (row.state, row.gpu) == ("parked", "1 frozen, 3.0 GiB released")


def test_the_tasks_by_namespace() -> None:
    """In order, with the GPU processes as far as they are known; not more than are readable."""
    views = [
        replace(VIEW, id="b", gpu=True),
        VIEW,
        replace(VIEW, namespace="first", gpu=True),
        *(replace(VIEW, namespace="x", id=f"{n}") for n in range(TASKS_MAX)),
    ]
    table = task_table(views, [], History(gpu_processes={("ns", "b"): 2}))

    assert list(table.namespaces) == ["first", "ns", "x"]
    assert [(row.view.id, row.gpu) for row in table.namespaces["ns"]] == [("a", "none"), ("b", "2")]
    assert table.namespaces["first"][0].gpu == "not yet known"
    assert table.left_out == 3


def test_the_processes_in_an_image() -> None:
    """With the engine builtin the timeline has no processes: then the image says how many."""
    gpu, image = replace(VIEW, gpu=True), replace(IMAGE, path="/i", processes=4)
    saved = task_table([gpu], [], History(images={("ns", "a"): "/i"}), [image])
    restored = task_table([replace(gpu, restored_from="/i")], [], History(), [image])

    for table in (saved, restored):
        assert [row.gpu for row in table.namespaces["ns"]] == ["4 in its image"]


def test_the_last_operations(tmp_path: Path) -> None:
    """Those of timelines, and what was answered and left none; a file is read when it changes."""
    folder = tmp_path / "tasks" / "ns" / "a"
    folder.mkdir(parents=True)
    now = utcnow()
    spans = (
        Span(phase=Phase.LOCK, pid=7, duration_s=0.1),
        Span(phase=Phase.LOCK, pid=8, duration_s=0.1),
        Span(phase=Phase.LOCK, pid=7, container="web", duration_s=0.1),
    )
    timeline_file.add(folder, replace(SAVED, task="a", began_at=now, spans=spans))
    ended = Ended(
        name="checkpoint",
        namespace="ns",
        task="a",
        image="",
        began_at=now - timedelta(seconds=1),
        ended_at=now + timedelta(seconds=1),
        took_s=2.0,
    )
    failed = replace(ended, name="restore", task="b", error="no room")
    files = TimelineFiles(StateFiles(tmp_path))

    found = files.history([ended, failed])

    assert [(one.name, one.task, one.has_timeline) for one in found.last] == [
        ("checkpoint", "a", True),
        ("restore", "b", False),
    ]
    assert found.last[1].error == "no room"
    assert found.gpu_processes == {("ns", "a"): 2, ("ns", "web"): 1}
    path = folder / timeline_file.NAME
    changed_ns = path.stat().st_mtime_ns
    path.write_text("damaged")
    os.utime(path, ns=(changed_ns, changed_ns))
    assert files.history([]).last == found.last[:1]
    path.write_text("damaged again")
    assert files.history([]).last == ()


async def test_an_operation_is_followed_to_its_end() -> None:
    """Phases in order, the process without a phase of its own, bytes, warnings, and its error."""
    changes: list[Change] = []
    followed = Operations()
    followed.on_change = changes.append
    begun = Begun(method="SaveName", namespace="ns", task="a")

    async def fail(report: Report) -> None:
        report(Progress(phase=Phase.FREEZE))
        report(Progress(phase=Phase.LOCK))
        report(Progress(phase=Phase.DETECT, pid=7, pid_state="locked", container="w"))
        report(Progress(phase=Phase.LOCK, message="slow", warning=True))
        report(Progress(phase=Phase.FREEZE, message="freeze", bytes_done=5, bytes_total=10))
        await asyncio.to_thread(report, Progress(phase=Phase.FREEZE, bytes_done=6, bytes_total=10))
        await asyncio.sleep(0)
        shown.extend(followed.running)
        message = "gone"
        raise Unavailable(message)

    shown: list[Running] = []
    with pytest.raises(Unavailable), followed.watch(begun) as report:
        await fail(report)
    (one,) = shown

    assert one.name == "save name"
    assert [step.phase for step in one.steps] == [Phase.FREEZE, Phase.LOCK]
    assert (one.phase, one.bytes_done, one.message) == (Phase.FREEZE, 6, "freeze")
    assert one.processes == {"w/7": "locked"}
    assert one.warnings == ("slow",)
    assert len(changes) == 8
    assert followed.running == []
    assert [(last.error, last.error_kind) for last in followed.ended] == [("gone", "Unavailable")]
