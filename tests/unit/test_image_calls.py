"""No call on an image's path is made on the event loop: a hung mount holds one operation."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from shim.config import Store
from shim.errors import CryoError, DeadlineExceeded, RunscError
from shim.host.filecalls import file_call
from shim.image import listing
from shim.image.name import parse
from shim.image.retention import PruneOptions
from shim.model import CudaState, EngineName, Phase, RestoreOptions, TaskRef, Verify
from shim.transaction import checkpoint
from shim.transaction.journal import Operation
from shim.transaction.recover import recover
from tests.hung import hung_mount
from tests.unit.fakes_guest import Fault, failed
from tests.unit.fakes_target import Make, in_states
from tests.unit.fakes_tasks import Owner, owning
from tests.unit.image_helpers import ProgressLog, sealed
from tests.unit.loop_guard import watched

RUNNING = CudaState.RUNNING


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Make]:
    """Return a factory of tasks whose CUDA processes are in these states."""
    with in_states(tmp_path) as made:
        yield made


@pytest.fixture
async def owner(tmp_path: Path) -> AsyncIterator[Owner]:
    """Give a machine with an owner of tasks."""
    async with owning(tmp_path) as made:
        yield made


def test_the_guard_sees_a_call(tmp_path: Path) -> None:
    """A call of ours in the folder is noted with its place, one of a test is not."""
    with watched(tmp_path) as found:
        (tmp_path / "image").exists()
        listing.list_images(tmp_path)

    assert len(found) == 1
    assert found[0].startswith("shim/image/walk.py:")


@pytest.mark.parametrize("exit_", (False, True))
@pytest.mark.parametrize("engine", (EngineName.PHASED, EngineName.BUILTIN))
async def test_a_checkpoint(make: Make, engine: EngineName, exit_: bool) -> None:
    """From the path that was asked for to the note of what was sealed."""
    scene = make(RUNNING)
    scene.store = Store(quota="1GiB", min_free="1B")
    with watched(scene.images, scene.folder / "verified") as found:
        await scene.checkpoint(engine=engine, exit=exit_)

    assert found == []


@pytest.mark.parametrize("what", ("fails", "is cancelled", "cannot be thawed"))
async def test_a_checkpoint_that_is_undone(make: Make, what: str) -> None:
    """The removal of what was begun, and an image that is kept, are no exceptions."""
    scene = make(RUNNING)
    begun: list[asyncio.Task[Any]] = []
    if what == "fails":
        scene.runsc.fails["checkpoint"] = RunscError("checkpoint", 128, "no")
    elif what == "is cancelled":
        scene.at_phase("seal", lambda: [one.cancel() for one in begun])
    else:
        scene.guest.faults["restore", 7] = Fault(answer=failed("no"), times=99)
    with watched(scene.images, scene.folder / "verified") as found:
        begun.append(asyncio.create_task(scene.checkpoint(engine=EngineName.PHASED)))
        with contextlib.suppress(CryoError, asyncio.CancelledError):
            await begun[0]

    assert found == []


@pytest.mark.parametrize("phase", (Phase.SAVE, Phase.COMMIT))
async def test_a_recovery(make: Make, phase: Phase) -> None:
    """Recovery from an open journal looks at the image in a thread as well."""
    scene = make(RUNNING)
    staging = scene.images / ".cryo-staging-1"
    staging.mkdir(parents=True)
    scene.journal.open(Operation.CHECKPOINT, str(scene.images / "image"))
    scene.journal.note(phase=phase, staging=str(staging))
    with watched(scene.images) as found:
        await recover(scene.target, scene.journal.entry, scene.updates.append)

    assert found == []
    assert not staging.exists()


async def test_what_tasks_do_with_images(owner: Owner) -> None:
    """List, inspect, verify, name, pin, create, restore, prune, remove, and the clean-up."""
    images = owner.folder / "images"
    image = str(images / "image")
    sealed(images / "image")
    sealed(images / "other")
    (images / ".cryo-staging-1").mkdir()
    ref = TaskRef(namespace="ns", id="b")
    with watched(images, owner.folder / "verified") as found:
        await owner.again()
        await owner.tasks.images.list()
        await owner.tasks.images.inspect(image, "ns")
        with contextlib.suppress(CryoError):  # the host does not fit it
            await owner.tasks.images.verify(image, Verify.FULL, ProgressLog(), "ns")
        await owner.tasks.images.tag(image, parse("a", "ns"), 1e6)
        await owner.tasks.images.pin("a", "ns", pinned=True)
        await owner.tasks.images.prune(PruneOptions(older_than_s=1e-6))
        await owner.tasks.images.prune_cache()
        with contextlib.suppress(CryoError):
            await owner.tasks.create(owner.request(checkpoint=image))
        with contextlib.suppress(CryoError):
            await owner.tasks.restore(ref, RestoreOptions(image_path=image), ProgressLog())
        await owner.tasks.images.pin("a", "ns", pinned=False)
        await owner.tasks.images.tag(image, parse("b", "ns"), 0)
        await owner.tasks.images.untag(image, parse("b", "ns"))
        assert await owner.tasks.images.remove("a", "ns")

    assert found == []
    assert [path.name for path in images.iterdir() if path.is_dir()] == []


async def test_a_mount_that_hangs(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A checkpoint onto it fails in time and says why; the task was not touched."""
    scene = make(RUNNING)
    with hung_mount(tmp_path / "hung") as mount:
        monkeypatch.setattr(checkpoint, "file_call", partial(file_call, deadline_s=0.3))

        error = await scene.error(image_path=str(mount.path / "image"))

        assert isinstance(error, DeadlineExceeded)
        assert "did not answer" in error.message
    assert scene.as_before()
