"""Pages that are verified beside their load: nothing of the restore is visible before."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from shim import failpoints
from shim.config import Trust
from shim.errors import CryoError, DeadlineExceeded, ImageCorrupt, RunscError
from shim.image.verify_cache import VerifyCache
from shim.model import CudaState, EngineName, Phase, Verify
from tests.unit.fakes_guest import Cuda, FakeGuest
from tests.unit.fakes_target import Scene, sleeping
from tests.unit.image_helpers import seal_at
from tests.unit.test_transaction_restore_txn import Restoring

RUNNING, FROZEN = CudaState.RUNNING, CudaState.CHECKPOINTED
WAIT_S = 60


class Beside(Restoring):
    """A restore of an image that this host has read before, when it was another file."""

    def __init__(self, scene: Scene) -> None:
        super().__init__(scene)
        self.points: list[str] = []
        self.may_read = threading.Event()
        self.may_read.set()
        self.reading = threading.Event()
        self.read_before()

    def read_before(self) -> None:
        """Record that the content was read on this host, in files that have changed since."""
        cache = VerifyCache(Path(self.scene.config.paths.verified))
        assert cache.remember_image(self.image, self.manifest)
        for path in self.image.iterdir():
            path.touch()

    def damage(self, name: str = "pages.img") -> None:
        """Change one byte of a file."""
        path = self.image / name
        path.write_bytes(path.read_bytes()[:-1] + b"\x08")
        self.bytes[name] = path.read_bytes()

    def hook(self, point: str) -> None:
        """Note a failpoint; the reading of the pages waits until it may go on."""
        self.points.append(point)
        if point == "image.verify-pages:before":
            self.reading.set()
            assert self.may_read.wait(WAIT_S)


@pytest.fixture
def beside(tmp_path: Path) -> Iterator[Beside]:
    """Give a restore of two frozen processes."""
    with sleeping() as process:
        guest = FakeGuest([Cuda(7, "train", FROZEN), Cuda(8, "infer", FROZEN)])
        made = Beside(Scene(tmp_path, process, guest))
        failpoints.arm(made.hook)
        yield made
        made.may_read.set()
        failpoints.arm(None)


@pytest.fixture
async def loaded(beside: Beside) -> AsyncIterator[asyncio.Future[Any]]:
    """Give the restore at the moment when its load has ended, and the pages are not read yet."""
    beside.may_read.clear()
    running = asyncio.ensure_future(beside.run())
    at_end = asyncio.Event()
    beside.deeds[Phase.LOAD] = lambda: beside.deeds.update({Phase.VERIFY: at_end.set})
    await asyncio.wait_for(at_end.wait(), WAIT_S)
    yield running
    beside.may_read.set()
    await asyncio.wait({running})


async def test_nothing_runs_before_the_pages_are_verified(
    beside: Beside, loaded: asyncio.Future[Any]
) -> None:
    """They are loaded meanwhile; no process is thawed, and no exit published."""
    assert beside.task.did == ["hold", "load"]
    assert beside.scene.guest.states == [FROZEN, FROZEN]

    beside.may_read.set()
    await asyncio.wait_for(loaded, WAIT_S)

    assert beside.task.did == ["hold", "load", "settle"]
    assert beside.scene.guest.states == [RUNNING, RUNNING]
    assert beside.clean
    beside.points.clear()
    await beside.run()
    assert not [point for point in beside.points if point.startswith("image.verify-pages")]


async def test_damage_ends_the_load(beside: Beside) -> None:
    """It is not waited for, and what was made of it is removed."""
    beside.damage()
    beside.task.gate = asyncio.Event()
    beside.may_read.clear()
    running = asyncio.ensure_future(beside.run())
    await asyncio.wait_for(beside.task.begun.wait(), WAIT_S)
    beside.may_read.set()

    with pytest.raises(ImageCorrupt, match=r"pages\.img was changed after it was sealed"):
        await asyncio.wait_for(running, WAIT_S)

    assert beside.task.did == ["hold", "load", "remove"]
    assert beside.scene.guest.states == [FROZEN, FROZEN]
    assert beside.clean


async def test_damage_found_after_the_load(beside: Beside, loaded: asyncio.Future[Any]) -> None:
    """Nothing has been thawed."""
    beside.damage()
    beside.may_read.set()

    with pytest.raises(ImageCorrupt):
        await asyncio.wait_for(loaded, WAIT_S)

    assert beside.task.did == ["hold", "load", "remove"]
    assert beside.scene.guest.states == [FROZEN, FROZEN]
    assert beside.clean


async def test_damage_explains_a_load_that_fails(beside: Beside) -> None:
    """The error is that of the verification, which is awaited for it."""
    beside.damage()
    beside.task.failing = True
    with pytest.raises(ImageCorrupt, match="was changed"):
        await beside.run()


async def test_a_load_that_fails_by_itself(beside: Beside) -> None:
    """Pages that are intact do not change its error."""
    beside.task.failing = True
    with pytest.raises(RunscError):
        await beside.run()
    assert beside.task.did == ["hold", "load", "remove"]


async def test_the_other_files_are_verified_first(beside: Beside) -> None:
    """Runsc itself reads those, outside the sandbox."""
    beside.damage("checkpoint.img")
    with pytest.raises(ImageCorrupt):
        await beside.run()
    assert beside.task.did == ["remove"]


@pytest.mark.parametrize("how", ("elsewhere", "first", "untrusted", "signed", "builtin"))
async def test_what_is_verified_before_its_load(beside: Beside, how: str) -> None:
    """An image that was never read here, or that another user may write, and what the caller wants.

    With its own engine runsc thaws the processes in the load.
    """
    options: dict[str, Any] = {"verify": Verify.FULL}
    if how == "elsewhere":
        VerifyCache(Path(beside.scene.config.paths.verified)).forget(beside.manifest.digest)
    elif how == "first":
        options["verify"] = Verify.FIRST
    elif how == "untrusted":
        options["untrusted_folder"] = True
    elif how == "signed":
        beside.scene.trust = Trust(restore="signed")
    else:
        plain = msgspec.structs.replace(beside.manifest, engine=EngineName.BUILTIN, files=())
        (beside.image / "cryo.json").unlink()
        beside.manifest = seal_at(beside.image, plain)
        beside.read_before()
        beside.bytes["cryo.json"] = (beside.image / "cryo.json").read_bytes()
    beside.damage()

    with pytest.raises(CryoError, match=r"pages\.img was changed"):
        await beside.run(**options)

    assert beside.task.did == ["remove"]
    assert beside.clean


async def test_a_cancellation_reaches_both(beside: Beside) -> None:
    """What was loaded is removed; nothing is thawed."""
    beside.may_read.clear()
    beside.task.gate = asyncio.Event()
    running = asyncio.ensure_future(beside.run())
    await asyncio.wait_for(beside.task.begun.wait(), WAIT_S)
    await asyncio.to_thread(beside.reading.wait, WAIT_S)
    running.cancel()
    beside.may_read.set()
    with pytest.raises(asyncio.CancelledError):
        await running

    assert beside.task.did == ["hold", "load", "remove"]
    assert beside.scene.guest.states == [FROZEN, FROZEN]
    assert beside.clean


async def test_a_deadline_reaches_both(beside: Beside) -> None:
    """A verification that is slow is named by its phase."""
    beside.may_read.clear()

    beside.deeds[Phase.ROLLBACK] = beside.may_read.set
    with pytest.raises(DeadlineExceeded, match="in phase verify"):
        await beside.run(timeout_s=0.3)

    assert beside.task.did == ["hold", "load", "remove"]
    assert beside.clean
