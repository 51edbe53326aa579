"""A restore by name that fails in Start: a cold start in the same call, or the error."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from shim.errors import CryoError, IllegalState, ImageCorrupt, RunscError
from shim.host import stdio
from shim.model import Stdio, TaskRef
from shim.state import TaskState
from shim.task.container import Container
from shim.transaction.journal import Journal
from tests.unit.fakes_tasks import Owner, owning
from tests.unit.test_task_origin import NAME, annotate, save

WAIT_S = 60
POSSIBLE = {"io.cryo.restore": NAME, "io.cryo.restore-policy": "if-possible"}


@pytest.fixture
async def owner(tmp_path: Path) -> AsyncIterator[Owner]:
    """Give an owner with no tasks."""
    async with owning(tmp_path) as made:
        yield made


async def pinned(owner: Owner, annotations: dict[str, str], stdio: Stdio | None = None) -> Path:
    """Create a task that is to be restored; return its image."""
    annotate(owner, annotations)
    path = await save(owner)
    await owner.tasks.create(owner.request(stdio=stdio or Stdio()))
    assert task(owner).record.image_path == str(path)
    return path


def task(owner: Owner) -> Container:
    """Return the task."""
    return owner.tasks._task(owner.ref())


async def test_a_restore_that_succeeds(owner: Owner) -> None:
    """It is watched from the moment at which it is complete, so its exit is published."""
    await pinned(owner, POSSIBLE)

    pid = await owner.tasks.start(owner.ref())

    assert task(owner).state is TaskState.RUNNING
    owner.kill_sandbox(pid)
    assert (await asyncio.wait_for(owner.tasks.wait(owner.ref()), WAIT_S)).status == 137
    assert owner.topics == ["create", "start", "/cryo/warm-hit", "exit"]


@pytest.mark.parametrize("where", ("verify", "load"))
async def test_a_restore_that_fails_is_a_cold_start(
    owner: Owner, tmp_path: Path, where: str
) -> None:
    """One Start, one start event, no exit; the reason is a warning, and the wait goes on."""
    output = tmp_path / "out"
    path = await pinned(owner, POSSIBLE, Stdio(stdout=str(output)))
    waiting = asyncio.create_task(owner.tasks.wait(owner.ref()))
    if where == "verify":
        (path / "pages.img").write_bytes(b"damaged")
    else:
        owner.supervisor.fails["restore"] = ["incompatible image"]

    pid = await owner.tasks.start(owner.ref())

    record = task(owner).record
    assert (task(owner).state, pid, record.image_path) == (TaskState.RUNNING, record.pid, "")
    assert record.named is not None
    assert record.named.reason in task(owner).warnings.text
    assert "started cold instead of from the image llama: " in task(owner).warnings.text
    assert owner.topics == ["create", "/cryo/warning", "start", "/cryo/warm-refusal"]
    assert not waiting.done()
    assert Journal(owner.record_folder()).load() is None
    owner.kill_sandbox(pid)
    assert (await asyncio.wait_for(waiting, WAIT_S)).status == 137
    await owner.tasks.delete(owner.ref())
    assert await owner.tasks.list("ns") == []


async def test_the_streams_are_opened_once(owner: Owner, monkeypatch: pytest.MonkeyPatch) -> None:
    """A second logger would be started, and the reader of a fifo would see its end, otherwise."""
    opened: list[TaskRef] = []
    plain = stdio.open_streams

    async def open_streams(given: Stdio, ref: TaskRef, supervisor: Any) -> Any:
        opened.append(ref)
        return await plain(given, ref, supervisor)

    monkeypatch.setattr(stdio, "open_streams", open_streams)
    await pinned(owner, POSSIBLE)
    owner.supervisor.fails["restore"] = ["incompatible image"]

    await owner.tasks.start(owner.ref())

    assert opened == [owner.ref()]


async def test_the_policy_always_is_no_cold_start(owner: Owner) -> None:
    """Start fails with the reason, and the task has exited."""
    path = await pinned(owner, {"io.cryo.restore": NAME})
    (path / "pages.img").write_bytes(b"damaged")

    with pytest.raises(ImageCorrupt):
        await owner.tasks.start(owner.ref())

    assert task(owner).state is TaskState.STOPPED
    await owner.tasks.delete(owner.ref())


async def test_both_fail(owner: Owner) -> None:
    """The error is that of the cold start; the task can be deleted."""
    path = await pinned(owner, POSSIBLE)
    (path / "pages.img").write_bytes(b"damaged")
    owner.supervisor.fails["create"] = ["no memory"]

    with pytest.raises(RunscError, match="no memory"):
        await owner.tasks.start(owner.ref())

    await owner.tasks.delete(owner.ref())
    assert await owner.tasks.list("ns") == []


async def test_a_kill_during_the_restore(owner: Owner) -> None:
    """It is not started cold after that; its exit is published, once."""
    await pinned(owner, POSSIBLE)
    owner.supervisor.gate = asyncio.Event()
    owner.supervisor.making.clear()
    starting = asyncio.create_task(owner.tasks.start(owner.ref()))
    await asyncio.wait_for(owner.supervisor.making.wait(), WAIT_S)

    await owner.tasks.kill(owner.ref(), 9)

    with pytest.raises(IllegalState, match="killed during the start"):
        await starting
    assert (await asyncio.wait_for(owner.tasks.wait(owner.ref()), WAIT_S)).status == 137
    assert owner.topics.count("exit") == 1
    await owner.tasks.delete(owner.ref())


async def test_a_rollback_that_fails(owner: Owner, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is started beside what is left of the restore, which can be killed and deleted."""
    path = await pinned(owner, POSSIBLE)
    (path / "pages.img").write_bytes(b"damaged")

    async def broken(_self: object) -> None:
        message = "device or resource busy"
        raise RunscError("delete", 1, message)

    monkeypatch.setattr("shim.task.init_process.InitProcess.discard", broken)
    with pytest.raises(CryoError, match="then the rollback failed"):
        await owner.tasks.start(owner.ref())
    assert "create" not in [word for argv in owner.supervisor.spawned for word in argv]
    await owner.tasks.kill(owner.ref(), 9)
    await owner.tasks.delete(owner.ref())


async def test_the_next_owner_has_the_outcome(owner: Owner) -> None:
    """A task that was started cold is adopted as one that never had an image."""
    path = await pinned(owner, POSSIBLE)
    (path / "pages.img").write_bytes(b"damaged")
    await owner.tasks.start(owner.ref())

    await owner.again()

    assert task(owner).record.image_path == ""
    assert task(owner).record.named is not None
    owner.kill_sandbox(task(owner).record.pid)
    await asyncio.wait_for(owner.tasks.wait(owner.ref()), WAIT_S)


async def test_without_a_name_nothing_changes(owner: Owner) -> None:
    """A Create with a checkpoint and a failing restore is what it was."""
    annotate(owner, {"io.cryo.restore": NAME})
    path = await save(owner)
    annotate(owner, {})
    (path / "pages.img").write_bytes(b"damaged")
    await owner.tasks.create(owner.request(checkpoint=str(path)))

    with pytest.raises(ImageCorrupt):
        await owner.tasks.start(owner.ref())
    assert owner.topics == ["create", "exit"]
