"""Started, paused or not: what an operation or an owner that broke off leaves is found out."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest

from shim.errors import NotFound, ResourceExhausted, RunscError
from shim.model import Stdio, TaskRef, utcnow
from shim.runsc.output import parse_status
from shim.simgpu.waiting import wait_until
from shim.state import TaskState
from shim.task import record as records
from shim.task.record import TaskRecord
from tests.unit.fakes_tasks import Owner, owning


@pytest.fixture
async def owner(tmp_path: Path) -> AsyncIterator[Owner]:
    """Give an owner with no tasks."""
    async with owning(tmp_path) as made:
        yield made


def says(owner: Owner, status: str) -> None:
    """Let `runsc state` say so."""
    owner.script.prints("state", out=json.dumps({"id": "a+", "status": status}))


def fill(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no record be written."""

    def full(*_: object) -> None:
        message = "write task.json: no space left on device"
        raise ResourceExhausted(message)

    monkeypatch.setattr(records, "save", full)


async def state(owner: Owner) -> TaskState:
    """Return the state that the owner reports."""
    return (await owner.tasks.state(owner.ref())).state


async def test_a_pause_that_cannot_be_noted_is_none(
    owner: Owner, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a full disk the task keeps running, and is not paused behind everybody's back."""
    await owner.running()
    fill(monkeypatch)

    with pytest.raises(ResourceExhausted):
        await owner.tasks.pause(owner.ref())

    assert "pause" not in owner.commands
    assert await state(owner) is TaskState.RUNNING


async def test_a_full_disk_keeps_no_task_paused(
    owner: Owner, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To resume it nothing must be written."""
    await owner.running()
    await owner.tasks.pause(owner.ref())
    fill(monkeypatch)

    await owner.tasks.resume(owner.ref())

    assert owner.commands[-1] == "resume"
    assert await state(owner) is TaskState.RUNNING


async def test_a_resume_on_a_full_disk_is_known_to_the_next_owner(
    owner: Owner, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The record says that the task is paused, and runsc that it runs."""
    await owner.running()
    await owner.tasks.pause(owner.ref())
    with monkeypatch.context() as full:
        fill(full)
        await owner.tasks.resume(owner.ref())
    record = records.load(owner.record_folder())
    assert record is not None
    assert record.paused
    says(owner, "running")

    await owner.again(killed=True)

    assert await state(owner) is TaskState.RUNNING


@pytest.mark.parametrize(
    ("status", "found"),
    (
        ("paused", TaskState.PAUSED),
        ("running", TaskState.RUNNING),
        ("stopped", TaskState.RUNNING),
        ("created", TaskState.CREATED),
    ),
)
async def test_the_next_owner_asks_how_it_ended(
    owner: Owner, status: str, found: TaskState
) -> None:
    """Killed between runsc's pause and the note of it, an owner leaves what only runsc knows."""
    await owner.running()
    folder = owner.record_folder()
    record = records.load(folder)
    assert record is not None
    records.save(folder, msgspec.structs.replace(record, unsettled=True))
    says(owner, status)

    await owner.again(killed=True)

    assert await state(owner) is found
    known = records.load(folder)
    assert known is not None
    assert not known.unsettled
    assert known.paused is (status == "paused")


async def test_the_record_says_so_while_runsc_is_at_it(owner: Owner) -> None:
    """Who dies while runsc starts or pauses the task leaves a record that says to ask."""
    seen = owner.folder / "seen"
    look = f'cp "{owner.record_folder() / records.NAME}" "{seen}"; exit 0'
    for command in ("start", "pause", "resume"):
        owner.script.on(command, look)
    await owner.tasks.create(owner.request())
    for step in (owner.tasks.start, owner.tasks.pause, owner.tasks.resume):
        await step(owner.ref())
        assert json.loads(seen.read_bytes())["unsettled"]
        record = records.load(owner.record_folder())
        assert record is not None
        assert not record.unsettled


async def test_a_pause_that_failed_after_all_was_done(owner: Owner) -> None:
    """When the command fails and the sandbox is paused, the task is: it can be resumed."""
    await owner.running()
    owner.script.prints("pause", err="cannot save the state file\n", status=128)
    says(owner, "paused")

    with pytest.raises(RunscError):
        await owner.tasks.pause(owner.ref())

    assert await state(owner) is TaskState.PAUSED
    await owner.tasks.resume(owner.ref())
    assert await state(owner) is TaskState.RUNNING


async def test_a_pause_whose_caller_goes_away(owner: Owner) -> None:
    """Cancelled in the middle, the task is what runsc has made of it."""
    await owner.running()
    begun = owner.folder / "begun"
    owner.script.on("pause", f"touch {begun}; exec sleep 1000")
    says(owner, "paused")
    pausing = asyncio.create_task(owner.tasks.pause(owner.ref()))
    await asyncio.to_thread(wait_until, begun.exists, "the pause", 30)

    pausing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await pausing

    assert await state(owner) is TaskState.PAUSED


def test_a_record_that_cannot_be_written(tmp_path: Path) -> None:
    """The error is typed, and names the file."""
    record = TaskRecord(
        ref=TaskRef(namespace="ns", id="a"), bundle="/b", stdio=Stdio(), created_at=utcnow()
    )

    with pytest.raises(NotFound, match=records.NAME):
        records.save(tmp_path / "nowhere", record)


@pytest.mark.parametrize("text", ("", "[]", "{}", '{"status": 1}', '{"status": "dead"}', "\xff"))
def test_an_answer_that_is_no_state(text: str) -> None:
    """Whatever runsc prints, it is read or refused."""
    with pytest.raises(RunscError):
        parse_status(text)
