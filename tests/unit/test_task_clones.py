"""Clones over restores that are scripted: what runs at a time, and how failures are kept apart."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import cast

import pytest

from shim import failpoints
from shim.config import Config, Paths
from shim.errors import AlreadyExists, ImageCorrupt, InvalidArgument, NotFound
from shim.image.images import Images
from shim.image.verify import HeldImage, read_manifest
from shim.image.verify_cache import VerifyCache
from shim.model import (
    Clone,
    CloneResult,
    Phase,
    Progress,
    Report,
    RestoreOptions,
    RestoreResult,
    TaskRef,
    Verify,
)
from shim.task.clones import Clones
from shim.task.restore_call import RestoreCall
from shim.task.transactions import Transactions
from shim.transaction.pages_check import PagesCheck
from tests.unit.image_helpers import ProgressLog, sealed


def allow(_ref: TaskRef) -> None:
    """Know no task of another process."""


class Restores:
    """Restores whose load lasts until `go`; `fails` has errors by id."""

    def __init__(self) -> None:
        self.fails: dict[str, Exception] = {}
        self.go = asyncio.Event()
        self.begun: list[str] = []
        self.loading: set[str] = set()
        self.changed = asyncio.Event()
        self.undone: list[str] = []
        self.most_preparing = 0
        self.most_loading = 0
        self.images: set[HeldImage] = set()
        self._preparing = 0

    async def run_held(
        self,
        ref: TaskRef,
        options: RestoreOptions,
        report: Report,
        held: HeldImage,
        pages: PagesCheck,
    ) -> RestoreResult:
        """Prepare a task, and load it until `go`."""
        self.begun.append(ref.id)
        self.images.add(held)
        await self._prepare()
        if ref.id in self.fails:
            raise self.fails[ref.id]
        report(Progress(phase=Phase.LOAD))
        self.loading.add(ref.id)
        self.changed.set()
        self.most_loading = max(self.most_loading, len(self.loading))
        try:
            await pages.beside(self._loaded())
            await pages.passed()
        except (asyncio.CancelledError, ImageCorrupt):
            self.undone.append(ref.id)
            raise
        finally:
            self.loading.discard(ref.id)
            self.changed.set()
        return RestoreResult(pid=len(self.begun), engine="")

    async def _loaded(self) -> None:
        await self.go.wait()

    async def _prepare(self) -> None:
        self._preparing += 1
        self.most_preparing = max(self.most_preparing, self._preparing)
        await asyncio.sleep(0)
        self._preparing -= 1


class Scene:
    """An image, and clones of it."""

    def __init__(self, folder: Path) -> None:
        self.image = folder / "images" / "a"
        sealed(self.image, processes=())
        self.image.chmod(0o700)
        paths = Paths(images=str(self.image.parent), verified=str(folder / "verified"))
        config = Config(paths=paths)
        self.cache = VerifyCache(Path(paths.verified))
        self.restores = Restores()
        self.transactions = Transactions()
        self.log = ProgressLog()
        restores = cast("RestoreCall", self.restores)
        self._clones = Clones(config, Images(config), restores, self.transactions)

    def begin(
        self, names: Sequence[str], at_once: int = 0, admit: Callable[[TaskRef], None] = allow
    ) -> asyncio.Task[tuple[CloneResult, ...]]:
        """Begin to restore the image under these names."""
        made = [self.clone(name) for name in names]
        return asyncio.create_task(self._clones.run(made, at_once, admit, self.log))

    async def run(self, made: Sequence[Clone]) -> None:
        """Restore these clones."""
        await self._clones.run(made, 0, allow, self.log)

    def clone(self, name: str, **options: object) -> Clone:
        """Return a clone of the image."""
        chosen = {"image_path": str(self.image), **options}
        return Clone(
            ref=TaskRef(namespace="ns", id=name),
            options=RestoreOptions(**chosen),  # type: ignore[arg-type]  # by name
        )

    async def until_loading(self, *names: str) -> None:
        """Wait until exactly these clones are being loaded."""
        async with asyncio.timeout(30):
            while self.restores.loading != set(names):
                self.restores.changed.clear()
                await self.restores.changed.wait()


@pytest.fixture
def scene(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Scene:
    """Make a host with two cores."""
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    return Scene(tmp_path)


async def test_what_runs_at_a_time(scene: Scene) -> None:
    """As many are prepared as there are cores, and as many are loaded as was asked for."""
    names = [f"c-{number}" for number in range(8)]
    running = scene.begin(names, at_once=5)
    await scene.until_loading(*names[:5])
    scene.restores.go.set()

    found = await running

    assert [one.id for one in found] == names
    assert all(one.restored for one in found)
    assert (scene.restores.most_preparing, scene.restores.most_loading) == (2, 5)
    assert scene.restores.begun == names
    assert len(scene.restores.images) == 1
    assert {(one.container, one.pid_state) for one in scene.log.all if one.pid} == {
        (name, "running") for name in names
    }


async def test_failures_are_apart(scene: Scene) -> None:
    """An error, a bug and a name that is taken have a result each, and the others go on."""

    def admit(ref: TaskRef) -> None:
        if ref.id == "taken":
            raise AlreadyExists("a shim has it", remedy="delete it")

    scene.restores.fails = {"gone": NotFound("no image", remedy="none"), "bug": ValueError("no")}
    scene.restores.go.set()
    found = await scene.begin(["gone", "bug", "taken", "good"], admit=admit)

    assert [(one.id, one.kind, one.error) for one in found] == [
        ("gone", "NotFound", "no image"),
        ("bug", "CryoError", "internal error: ValueError"),
        ("taken", "AlreadyExists", "a shim has it"),
        ("good", "", ""),
    ]
    assert found[3].restored
    assert scene.log.warnings[:1] == ["gone: no image"]


async def test_a_cancellation_reaches_all(scene: Scene) -> None:
    """Those that are loaded are rolled back, and those that wait do not begin."""
    running = scene.begin(["a", "b", "c"], at_once=2)
    await scene.until_loading("a", "b")
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running

    assert sorted(scene.restores.undone) == ["a", "b"]
    assert scene.restores.begun == ["a", "b"]


async def test_a_kill_reaches_one(scene: Scene) -> None:
    """Its result says that it was killed."""
    running = scene.begin(["a", "b"])
    await scene.until_loading("a", "b")
    ref = TaskRef(namespace="ns", id="a")
    scene.transactions.interrupt(ref, ref)
    await scene.until_loading("b")
    scene.restores.go.set()

    killed, other = await running

    assert (killed.kind, killed.restored) == ("IllegalState", None)
    assert "was killed" in killed.error
    assert other.restored


async def test_the_end_of_the_sidecar(scene: Scene) -> None:
    """A clone that is cancelled by itself has a result, and the others are not lost."""
    running = scene.begin(["a"])
    await scene.until_loading("a")
    await scene.transactions.finish(0)

    [result] = await running

    assert result.kind == "Cancelled"
    assert scene.restores.undone == ["a"]


async def test_damage_found_while_they_are_loaded(scene: Scene) -> None:
    """An image that this host has read before is verified once beside all loads, which it ends."""
    scene.cache.remember_image(scene.image, read_manifest(scene.image))
    pages = scene.image / "pages.img"
    pages.write_bytes(pages.read_bytes()[:-1] + b"\x08")
    until_loading = threading.Event()

    def hook(point: str) -> None:
        if point == "image.verify-pages:before":
            assert until_loading.wait(30)

    failpoints.arm(hook)
    try:
        running = scene.begin(["a", "b"])
        await scene.until_loading("a", "b")
        until_loading.set()
        with pytest.raises(ImageCorrupt, match=r"pages\.img was changed"):
            await running
    finally:
        failpoints.arm(None)

    assert sorted(scene.restores.undone) == ["a", "b"]


async def test_what_is_no_set_of_clones(scene: Scene) -> None:
    """Nothing is begun with none, one name twice, or two images."""
    one = scene.clone("a")
    for made in (
        [],
        [one, one],
        [one, scene.clone("b", verify=Verify.FULL)],
        [one, scene.clone("b", image_path="/other")],
    ):
        with pytest.raises(InvalidArgument):
            await scene.run(made)
    with pytest.raises(NotFound):
        await scene.run([scene.clone("a", image_path="/nowhere")])

    assert scene.restores.begun == []
