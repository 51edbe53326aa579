"""What an owner's start must survive: trees that cannot be removed, and faults of its own."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from shim.errors import PermissionDenied
from shim.host import files, removal
from shim.image import store
from shim.model import TaskRef
from shim.state import TaskState
from shim.task import recovery
from shim.task.container import Container
from shim.task.context import Context
from shim.task.recovery import Log, adopt
from tests.unit.fakes_tasks import Owner, owning
from tests.unit.test_host_removal import nest


@pytest.fixture
async def owner(tmp_path: Path) -> AsyncIterator[Owner]:
    """Give an owner with no tasks."""
    async with owning(tmp_path) as made:
        yield made


async def test_a_deep_folder_left_behind_is_removed(owner: Owner) -> None:
    """A staging folder with 600 folders in each other ends neither a start nor the clean-up."""
    left = owner.folder / "images" / ".cryo-staging-aa"
    left.mkdir(parents=True)
    nest(left, 600)

    tasks = await owner.again()

    assert not left.exists()
    assert await tasks.list("ns") == []


async def test_what_cannot_be_removed_is_reported_and_the_rest_goes(
    owner: Owner, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One folder that stays, such as an immutable one, keeps neither the owner nor the others."""
    for name in ("aa", "bb", "cc"):
        (owner.folder / "images" / f".cryo-staging-{name}").mkdir(parents=True)

    def refusing(path: Path) -> None:
        if path.name.endswith("bb"):
            raise PermissionDenied("cannot remove bb: Operation not permitted")
        removal.remove_tree(path)

    monkeypatch.setattr(files, "remove_tree", refusing)
    await owner.again()

    assert [path.name for path in (owner.folder / "images").iterdir()] == [".cryo-staging-bb"]
    assert any("bb was not removed" in line for line in await owner.tasks.tidy())


async def test_a_start_does_not_wait_for_the_clean_up(
    owner: Owner, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Recovering looks at no image, however many there are; the clean-up comes afterwards."""
    await owner.tasks.close()
    owner.tasks = owner._new()

    def counted(_images: Path) -> list[Path]:
        raise AssertionError("the images were listed")

    monkeypatch.setattr(store, "stale_stagings", counted)
    await owner.tasks.recover()

    with pytest.raises(AssertionError):
        await owner.tasks.tidy()


async def test_a_fault_with_one_task_does_not_end_the_start(
    owner: Owner, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A task whose adoption fails unexpectedly keeps its id; the others are served."""
    await owner.running()
    await owner.tasks.create(owner.request("b"))

    async def faulty(context: Context, ref: TaskRef, log: Log) -> Container | None:
        if ref.id == "a":
            raise RecursionError("too deep")
        return await adopt(context, ref, log)

    monkeypatch.setattr(recovery, "adopt", faulty)
    tasks = await owner.again(killed=True)

    assert [view.id for view in await tasks.list("ns")] == ["b"]
    assert tasks.has(owner.ref("a"))
    assert "task a cannot be taken over: too deep" in await tasks.tidy()
    assert "Traceback" in caplog.text


async def test_a_fault_in_undoing_is_kept_with_the_task(
    owner: Owner, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A task that could not be brought back is listed, with the reason as its warning."""
    await owner.running()

    async def faulty(*_: object) -> list[Container]:
        raise KeyError("surprise")

    monkeypatch.setattr(recovery, "close_journal", faulty)
    tasks = await owner.again(killed=True)

    view = (await tasks.list("ns"))[0]
    assert view.state is TaskState.RUNNING
    assert "could not be taken over: 'surprise'" in view.warning
