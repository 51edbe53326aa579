"""Restore as a transaction: everything awake, or nothing left and the image untouched."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from shim.errors import (
    Busy,
    CudaError,
    DeadlineExceeded,
    HostMismatch,
    ImageCorrupt,
    NotFound,
    RunscError,
    Unimplemented,
)
from shim.image import deletion
from shim.image.manifest import Build, Manifest
from shim.image.side_files import LABELS
from shim.image.verify_cache import VerifyCache
from shim.model import CudaProcess, CudaState, Phase, Progress, RestoreOptions, RestoreResult
from shim.transaction import hostfacts
from shim.transaction.beside_load import Load
from shim.transaction.journal import Journal
from shim.transaction.restore_txn import Restore
from shim.transaction.target import CheckpointTarget
from tests.unit.fakes_guest import Cuda, FakeGuest, Fault, failed
from tests.unit.fakes_runsc import capabilities
from tests.unit.fakes_target import Scene, sleeping
from tests.unit.image_helpers import sealed

RUNNING, FROZEN = CudaState.RUNNING, CudaState.CHECKPOINTED


class Reviving:
    """A task that is filled by a restore; `loaded` says what was done with it."""

    def __init__(self, scene: Scene) -> None:
        self.journal: Journal = scene.journal
        self.scene = scene
        self.did: list[str] = []
        self.gate: asyncio.Event | None = None
        self.begun = asyncio.Event()
        self.removal: BaseException | None = None
        self.loaded: list[int] = []
        self.failing = False
        self.held = -1
        self.lacks: tuple[str, ...] = ()

    async def network_warnings(self) -> tuple[str, ...]:
        """Stand for the look at the network namespace."""
        return self.lacks

    def hold_exit(self) -> None:
        """Keep that no exit is published from here on."""
        self.did.append("hold")

    async def load_image(self, options: RestoreOptions, load: Load) -> int:
        """Stand for `runsc restore`."""
        self.did.append("load")
        load.begun()
        self.loaded.append(Path(options.image_path).stat().st_ino)
        if self.failing:
            raise RunscError("restore", 128, f"open {options.image_path}/pages.img: no such file")
        self.begun.set()
        if self.gate is not None:
            await self.gate.wait()
        load.ended()
        return 4711

    async def hold_until_loaded(self, fd: int) -> None:
        """Stand for a process that holds a descriptor."""
        self.held = os.dup(fd)

    async def watch_restored(self) -> None:
        """Stand for the wait for the end."""

    def settle(self) -> None:
        """Keep that its exit is published from here on."""
        self.did.append("settle")

    async def target(self) -> CheckpointTarget:
        """Hand over the loaded task."""
        return self.scene.target

    async def remove_sandbox(self) -> None:
        """Stand for kill and delete."""
        await asyncio.sleep(0)
        self.did.append("remove")
        if self.removal is not None:
            raise self.removal


class Restoring:
    """An image, and a restore of it."""

    def __init__(self, scene: Scene) -> None:
        self.scene = scene
        self.task = Reviving(scene)
        self.image = scene.images / "image"
        self.updates: list[Progress] = []
        self.deeds: dict[Phase, Any] = {}
        host = hostfacts.read_host()
        self.manifest: Manifest = sealed(
            self.image,
            runsc=Build(version="release-20260905.0"),
            arch=host.arch,
            cpu_features=(),
            driver="580.65.06",
            processes=tuple(CudaProcess(pid=p.pid, name=p.name) for p in scene.guest.processes),
        )
        self.bytes = {path.name: path.read_bytes() for path in self.image.iterdir()}

    async def run(self, *, new: bool = True, **options: Any) -> RestoreResult:
        """Restore it."""
        asked = RestoreOptions(image_path=str(self.image), **options)
        restore = Restore(self.task, self.scene.config, asked, self._on_progress)
        return await restore.run(capabilities(new=new))

    def _on_progress(self, progress: Progress) -> None:
        self.updates.append(progress)
        self.deeds.pop(progress.phase, lambda: None)()

    @property
    def clean(self) -> bool:
        """Whether nothing is left but the image, which is as it was; its use may be recorded."""
        found = (path for path in self.image.iterdir() if path.name != LABELS)
        now = {path.name: path.read_bytes() for path in found}
        return self.scene.on_disk() is None and now == self.bytes


@pytest.fixture
def restoring(tmp_path: Path) -> Iterator[Restoring]:
    """Give a restore of two frozen processes."""
    with sleeping() as process:
        guest = FakeGuest([Cuda(7, "train", FROZEN), Cuda(8, "infer", FROZEN)])
        yield Restoring(Scene(tmp_path, process, guest))


async def test_everything_is_awake(restoring: Restoring) -> None:
    """The result names the processes, and the phases with their times."""
    result = await restoring.run()

    assert restoring.scene.guest.states == [RUNNING, RUNNING]
    assert (result.pid, result.engine) == (4711, "phased")
    assert [process.pid for process in result.processes] == [7, 8]
    assert set(result.timings_s) == {"verify", "load", "thaw"}
    assert restoring.task.did == ["load", "settle"]
    assert restoring.clean


async def test_a_network_without_an_address_is_reported(restoring: Restoring) -> None:
    """The warning is in the progress, before anything is loaded, and in the result."""
    restoring.task.lacks = ("the network namespace has no address",)

    result = await restoring.run()

    assert result.warnings == restoring.task.lacks
    (reported,) = [one for one in restoring.updates if one.warning]
    assert (reported.phase, reported.message) == (Phase.VERIFY, restoring.task.lacks[0])


async def test_the_journal_says_what_is_under_way(restoring: Restoring) -> None:
    """The next owner removes a half-made task."""
    restoring.task.gate = asyncio.Event()
    work = asyncio.create_task(restoring.run())
    await asyncio.wait_for(restoring.task.begun.wait(), 60)
    entry = restoring.scene.on_disk()
    restoring.task.gate.set()
    await work

    assert entry is not None
    assert (entry.operation, entry.phase) == ("restore", Phase.LOAD)


async def test_a_damaged_image_is_not_loaded(restoring: Restoring) -> None:
    """One wrong byte in gigabytes is found before anything is made."""
    pages = restoring.image / "pages.img"
    pages.write_bytes(pages.read_bytes()[:-1] + b"\x08")
    restoring.bytes["pages.img"] = pages.read_bytes()

    with pytest.raises(ImageCorrupt):
        await restoring.run()
    assert "load" not in restoring.task.did
    assert restoring.clean


async def test_another_host(restoring: Restoring) -> None:
    """A driver that does not fit is found before anything is made."""
    (restoring.scene.nvidia / "version").unlink()

    with pytest.raises(HostMismatch, match="driver"):
        await restoring.run()
    assert "load" not in restoring.task.did


async def test_an_option_that_this_runsc_has_not(restoring: Restoring) -> None:
    """Likewise."""
    with pytest.raises(Unimplemented):
        await restoring.run(new=False, background=True)
    assert "load" not in restoring.task.did
    assert restoring.clean


async def test_an_image_stays_in_use_until_it_is_loaded(restoring: Restoring) -> None:
    """A restore in the background leaves its lock to a process that lasts until then."""
    cache = VerifyCache(Path(restoring.scene.config.paths.verified))

    await restoring.run(background=True)

    with pytest.raises(Busy, match="is in use"):
        deletion.remove(restoring.image, restoring.scene.images, cache)
    os.close(restoring.task.held)
    deletion.remove(restoring.image, restoring.scene.images, cache)


async def test_an_image_that_was_loaded_is_not_in_use(restoring: Restoring) -> None:
    """Without --background everything is loaded when the restore ends."""
    await restoring.run()

    assert restoring.task.held == -1
    cache = VerifyCache(Path(restoring.scene.config.paths.verified))
    deletion.remove(restoring.image, restoring.scene.images, cache)


async def test_an_image_that_went_away(restoring: Restoring) -> None:
    """Somebody removed it meanwhile."""
    for path in restoring.image.iterdir():
        path.unlink()
    restoring.image.rmdir()

    with pytest.raises(NotFound):
        await restoring.run()
    assert restoring.scene.on_disk() is None


async def test_a_process_that_does_not_wake(restoring: Restoring) -> None:
    """Then there is no task: the sandbox goes, the image stays."""
    restoring.scene.guest.faults["restore", 8] = Fault(answer=failed("invalid device"))

    with pytest.raises(CudaError, match=r"process 8 \(infer\)"):
        await restoring.run()

    assert restoring.task.did == ["load", "remove"]
    assert restoring.clean


@pytest.mark.parametrize("phase", (Phase.VERIFY, Phase.LOAD, Phase.THAW))
@pytest.mark.parametrize("again", (False, True))
async def test_cancelled_in_any_phase(restoring: Restoring, phase: Phase, again: bool) -> None:
    """What was made is removed, however often the caller insists."""
    work = asyncio.ensure_future(restoring.run())
    restoring.deeds[phase] = work.cancel
    if again:
        restoring.deeds[Phase.ROLLBACK] = work.cancel

    with pytest.raises(asyncio.CancelledError):
        await work

    assert restoring.task.did[-1] == "remove"
    assert restoring.clean


async def test_a_mistake_of_our_own(restoring: Restoring) -> None:
    """An unexpected error leaves nothing either."""

    def mistake() -> None:
        raise ZeroDivisionError

    restoring.deeds[Phase.THAW] = mistake

    with pytest.raises(ZeroDivisionError):
        await restoring.run()
    assert restoring.task.did == ["load", "remove"]
    assert restoring.clean


async def test_the_whole_has_a_deadline(restoring: Restoring) -> None:
    """The error names the phase."""
    restoring.task.gate = asyncio.Event()

    with pytest.raises(DeadlineExceeded, match="was in phase load"):
        await restoring.run(timeout_s=0.2)
    assert restoring.task.did == ["load", "remove"]
    assert restoring.clean


async def test_a_removal_that_fails_keeps_the_journal(restoring: Restoring) -> None:
    """The next owner tries again."""
    restoring.scene.guest.faults["restore", 8] = Fault(answer=failed("no"))
    restoring.task.removal = DeadlineExceeded("runsc delete did not end")

    with pytest.raises(CudaError, match=r"process 8 .* rollback failed: runsc delete"):
        await restoring.run()
    assert restoring.scene.on_disk() is not None


async def test_a_file_that_is_swapped_while_it_is_loaded_fails_the_restore(
    restoring: Restoring,
) -> None:
    """What was loaded is not what was verified: nothing is left of it."""
    pages = restoring.image / "pages.img"

    def swap() -> None:
        (restoring.image / "new").write_bytes(pages.read_bytes())
        (restoring.image / "new").rename(pages)

    restoring.deeds[Phase.LOAD] = swap
    with pytest.raises(ImageCorrupt, match="was changed while it was loaded"):
        await restoring.run()

    assert restoring.task.did == ["load", "remove"]
    assert restoring.scene.guest.states == [FROZEN, FROZEN]


async def test_runsc_is_given_the_folder_that_was_verified(restoring: Restoring) -> None:
    """The path that it opens leads to that folder, though another has its name by now."""
    inode = restoring.image.stat().st_ino
    restoring.deeds[Phase.LOAD] = lambda: restoring.image.rename(restoring.image.with_name("x"))

    await restoring.run()

    assert restoring.task.loaded == [inode]


async def test_an_error_names_the_image_by_its_own_path(restoring: Restoring) -> None:
    """The path by which runsc opened it says nothing to a caller."""
    restoring.task.failing = True

    with pytest.raises(RunscError) as caught:
        await restoring.run()

    assert f"{restoring.image}/pages.img" in caught.value.message
    assert f"{restoring.image}/pages.img" in caught.value.line
    assert str(caught.value) == caught.value.message
