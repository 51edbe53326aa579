"""Images are removed by policy with real files: never one that is pinned, used or being saved."""

from __future__ import annotations

import asyncio
import os
import shutil
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from shim import failpoints
from shim.config import Config, Paths, Store
from shim.errors import CryoError, DeadlineExceeded, Refused, ResourceExhausted
from shim.image import deletion, labels, store, tagging
from shim.image import images as images_module
from shim.image.eviction import Eviction, Kept
from shim.image.images import Images
from shim.image.name import parse
from shim.image.named import Fingerprint, ImageRef, NamedImages
from shim.image.retention import Policy, PruneOptions
from shim.image.side_files import LABELS
from shim.image.staging import begin, name_staging
from shim.image.verify import HeldImage
from shim.image.verify_cache import VerifyCache
from shim.model import Verify
from tests.hung import hung_mount
from tests.unit.image_helpers import sealed

NOW = datetime.now(UTC)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Give a folder with four images of two tasks; `a` was not used for the longest time."""
    for number, path in enumerate(("t1/a", "t1/b", "t1/c", "t2/d")):
        image = tmp_path / "images" / "ns" / path
        sealed(image, created_at=NOW - timedelta(hours=10 - number))
        labels.note_use(image, NOW - timedelta(hours=10 - number))
    return tmp_path / "images"


@pytest.fixture
def cache(tmp_path: Path) -> VerifyCache:
    """Give an empty verification cache."""
    return VerifyCache(tmp_path / "verified")


@pytest.fixture
def one_bytes(folder: Path) -> int:
    """Give the size of one image."""
    return size_of(folder / "ns/t1/a")


def size_of(path: Path) -> int:
    """Return the size of the files of an image."""
    return sum(file.stat().st_size for file in path.iterdir())


def left(folder: Path) -> list[str]:
    """Return the names of the images that are left."""
    return sorted(path.parent.name for path in folder.rglob("cryo.json"))


def test_a_quota(folder: Path, cache: VerifyCache, one_bytes: int) -> None:
    """The longest unused goes; the empty folders of its task too, and its names."""
    tagging.tag(folder, folder / "ns/t2/d", parse("old", "ns"), NOW)
    labels.note_use(folder / "ns/t2/d", NOW - timedelta(days=9))
    pruned = Eviction(folder, cache, Policy(quota_bytes=3 * one_bytes)).prune()

    assert [one.path.name for one in pruned.removed] == ["d"]
    assert left(folder) == ["a", "b", "c"]
    assert not (folder / "ns/t2").exists()
    with pytest.raises(Exception, match="no image is named"):
        store.resolve_existing("old", folder, "ns")


def test_room_is_made_before_an_image_is_written(
    folder: Path, cache: VerifyCache, one_bytes: int
) -> None:
    """As much as is needed, and nothing if there is room."""
    policy = Policy(quota_bytes=5 * one_bytes)

    assert Eviction(folder, cache, policy).make_room(one_bytes).removed == ()
    Eviction(folder, cache, policy).make_room(2 * one_bytes)
    assert left(folder) == ["b", "c", "d"]


def test_no_room(folder: Path, cache: VerifyCache, one_bytes: int) -> None:
    """What may not be removed is named, and nothing was removed in vain."""
    for name in ("b", "c"):
        tagging.pin(folder, folder / "ns/t1" / name, pinned=True)

    with pytest.raises(ResourceExhausted, match="2 images are pinned") as caught:
        Eviction(folder, cache, Policy(quota_bytes=4 * one_bytes)).make_room(3 * one_bytes)

    assert "a quota of" in caught.value.message
    assert "[store]" in caught.value.remedy
    assert left(folder) == ["a", "b", "c", "d"]


def test_an_image_that_is_larger_than_the_quota(folder: Path, cache: VerifyCache) -> None:
    """It is refused, and the others stay."""
    with pytest.raises(ResourceExhausted):
        Eviction(folder, cache, Policy(quota_bytes=1 << 30)).make_room(2 << 30)
    assert left(folder) == ["a", "b", "c", "d"]


def test_an_image_in_use_stays(folder: Path, cache: VerifyCache, one_bytes: int) -> None:
    """A restore, a push or a clone holds it; the next one goes instead, and the result says so."""
    held = HeldImage(folder / "ns/t1/a")
    held.verify(Verify.NONE, cache, lambda _: None)
    policy = Policy(quota_bytes=3 * one_bytes + 200)
    try:
        dry = Eviction(folder, cache, policy).prune(dry_run=True)
        pruned = Eviction(folder, cache, policy).prune()
    finally:
        held.close()

    assert dry == pruned
    assert [one.path.name for one in pruned.removed] == ["b"]
    assert pruned.kept == (Kept(path=folder / "ns/t1/a", reason="in use"),)
    assert left(folder) == ["a", "c", "d"]


def test_all_that_could_make_room_is_in_use(
    folder: Path, cache: VerifyCache, one_bytes: int
) -> None:
    """The error names them."""
    held = [HeldImage(path.parent) for path in folder.rglob("cryo.json")]
    for image in held:
        image.verify(Verify.NONE, cache, lambda _: None)
    try:
        with pytest.raises(ResourceExhausted, match="4 images are in use"):
            Eviction(folder, cache, Policy(quota_bytes=4 * one_bytes)).make_room(one_bytes)
    finally:
        for image in held:
            image.close()
    assert left(folder) == ["a", "b", "c", "d"]


def test_a_pin_that_comes_late(
    folder: Path, cache: VerifyCache, one_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An image that is pinned after it was chosen stays."""
    plain = deletion.remove

    def later(path: Path, *more: object) -> None:
        if path.name == "a":
            tagging.pin(folder, path, pinned=True)
        plain(path, *more)  # type: ignore[arg-type]  # what the caller gives

    monkeypatch.setattr(deletion, "remove", later)
    pruned = Eviction(folder, cache, Policy(quota_bytes=3 * one_bytes + 200)).prune()

    assert [one.path.name for one in pruned.removed] == ["b"]
    assert pruned.kept == (Kept(path=folder / "ns/t1/a", reason="pinned"),)


def test_a_dry_run_removes_nothing(folder: Path, cache: VerifyCache) -> None:
    """It says what would be removed, and the same is then removed."""
    policy = Policy(keep_last=1, ttl_s=7.5 * 3600)
    dry = Eviction(folder, cache, policy).prune(dry_run=True)
    assert left(folder) == ["a", "b", "c", "d"]

    pruned = Eviction(folder, cache, policy).prune()

    assert pruned == dry
    assert [one.path.name for one in pruned.removed] == ["a", "b", "c"]
    assert "longer ago" in pruned.removed[0].reason
    assert left(folder) == ["d"]


def test_names_are_groups(folder: Path, cache: VerifyCache) -> None:
    """The tags of one repository are kept together, whatever tasks the images are of."""
    for image, tag in (("t1/a", "1"), ("t1/b", "2"), ("t2/d", "3")):
        tagging.tag(folder, folder / "ns" / image, parse(f"llama:{tag}", "ns"), NOW)

    pruned = Eviction(folder, cache, Policy(keep_last=2)).prune()

    assert [one.path.name for one in pruned.removed] == ["a"]
    assert pruned.removed[0].reason == "not among the last 2 of ns/llama"


def test_damaged_labels_are_a_pin(folder: Path, cache: VerifyCache) -> None:
    """What may have been pinned is not removed by policy."""
    (folder / "ns/t1/a" / LABELS).write_bytes(b"damage")

    Eviction(folder, cache, Policy(ttl_s=1)).prune()

    assert left(folder) == ["a"]


def test_a_damaged_image_can_go(folder: Path, cache: VerifyCache) -> None:
    """Its manifest is not needed for that."""
    (folder / "ns/t1/a" / "cryo.json").write_bytes(b"damage")

    Eviction(folder, cache, Policy(ttl_s=1)).prune()

    assert left(folder) == []


def test_an_image_that_cannot_be_removed(folder: Path, cache: VerifyCache, one_bytes: int) -> None:
    """Another one goes, and the reason is in the result."""

    def fail(point: str) -> None:
        if point == "image.remove:before":
            failpoints.arm(None)
            raise CryoError("it is read-only")

    failpoints.arm(fail)
    try:
        pruned = Eviction(folder, cache, Policy(quota_bytes=3 * one_bytes)).prune()
    finally:
        failpoints.arm(None)

    assert [one.path.name for one in pruned.removed] == ["b"]
    assert pruned.kept[0].reason == "not removable (it is read-only)"


# --- images that are being written --------------------------------------------------------------


def test_an_image_that_is_being_written_has_its_size_reserved(
    folder: Path, cache: VerifyCache, one_bytes: int
) -> None:
    """By its expected size while it is written, by what is there once it was left behind."""
    policy = Policy(quota_bytes=5 * one_bytes)
    staging = begin(name_staging(folder / "ns/t3/e", 2 * one_bytes))
    (staging.path / "pages.img").write_bytes(b"x")

    assert len(Eviction(folder, cache, policy).make_room().removed) == 1
    assert left(folder) == ["b", "c", "d"]
    with pytest.raises(ResourceExhausted):
        Eviction(folder, cache, policy).make_room(5 * one_bytes)
    staging.close()
    assert Eviction(folder, cache, policy).make_room(one_bytes).removed == ()
    assert store.stale_stagings(folder) == [staging.path]


def test_two_that_begin_at_once(folder: Path, cache: VerifyCache, one_bytes: int) -> None:
    """Both have reserved before either makes room, so there is room for both."""
    policy = Policy(quota_bytes=5 * one_bytes)
    begun = [begin(name_staging(folder / "ns/t3" / name, one_bytes)) for name in ("e", "f")]
    for _ in begun:
        Eviction(folder, cache, policy).make_room()

    assert left(folder) == ["b", "c", "d"]
    for staging in begun:
        staging.discard()


# --- warm starts --------------------------------------------------------------------------------

FIT = Fingerprint(parts={"runsc": "1"})
OTHER = Fingerprint(parts={"runsc": "2"})


@pytest.fixture
def named(tmp_path: Path) -> NamedImages:
    """Give the images of a warm start: one of each of two fingerprints."""
    made = NamedImages(tmp_path / "warm", ImageRef(namespace="ns", name="llama"))
    for number, one in enumerate((FIT, OTHER)):
        sealed(made.new_image(one, NOW), created_at=NOW - timedelta(hours=2 - number))
    return made


def test_images_of_a_warm_start_are_of_one_group(
    named: NamedImages, tmp_path: Path, cache: VerifyCache
) -> None:
    """That of the name, whatever their fingerprints; the folder of a fingerprint goes too."""
    pruned = Eviction(tmp_path / "warm", cache, Policy(keep_last=1)).prune()

    assert [one.reason for one in pruned.removed] == ["not among the last 1 of ns/llama"]
    assert named.fingerprints() == [OTHER.key]
    assert not (named.folder / FIT.key).exists()


def test_an_image_that_is_being_replaced_stays(
    named: NamedImages, tmp_path: Path, cache: VerifyCache
) -> None:
    """Under the lock of a save nothing of that fingerprint is removed."""
    lock = named.lock(FIT.key)
    assert lock is not None
    try:
        pruned = Eviction(tmp_path / "warm", cache, Policy(keep_last=1)).prune()
    finally:
        os.close(lock)

    assert pruned.removed == ()
    assert [one.reason for one in pruned.kept] == ["in use"]
    assert set(named.fingerprints()) == {FIT.key, OTHER.key}


def test_a_pinned_image_of_a_name_outlives_the_next_save(
    named: NamedImages, cache: VerifyCache, tmp_path: Path
) -> None:
    """The images that a new one replaces are removed, except for those."""
    old = named.find(FIT.key)
    assert old is not None
    tagging.pin(tmp_path / "warm", old, pinned=True)
    new = named.new_image(FIT, NOW + timedelta(hours=1))
    sealed(new)

    assert named.prune(new, cache) == []
    assert old.exists()
    with pytest.raises(Refused, match="is pinned"):
        named.drop(cache)
    assert new.exists()


# --- several at once, and kills -----------------------------------------------------------------


def test_prunes_at_once(folder: Path, cache: VerifyCache) -> None:
    """All succeed, each image is removed once, and no more than the policy says."""
    for number in range(30):
        sealed(folder / "ns" / "t9" / f"i{number:02}", created_at=NOW - timedelta(minutes=number))
    results: list[list[str]] = []

    def prune() -> None:
        pruned = Eviction(folder, cache, Policy(keep_last=2)).prune()
        results.append([one.path.name for one in pruned.removed])

    threads = [threading.Thread(target=prune) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)

    assert len(results) == 4
    gone = [name for result in results for name in result]
    assert len(gone) == len(set(gone))
    assert left(folder) == ["b", "c", "d", "i00", "i01"]
    assert store.stale_stagings(folder) == []


def test_prunes_and_uses_at_once(folder: Path, cache: VerifyCache) -> None:
    """An image that is held is whole until it is released, however often it is pruned."""
    held = HeldImage(folder / "ns/t1/a")
    held.verify(Verify.FULL, cache, lambda _: None)
    over = threading.Event()

    def prune() -> None:
        while not over.is_set():
            Eviction(folder, cache, Policy(ttl_s=1)).prune()

    thread = threading.Thread(target=prune)
    thread.start()
    try:
        for _ in range(20):
            held.verify(Verify.FULL, cache, lambda _: None)
        held.check_unchanged()
        assert (folder / "ns/t1/a").exists()
    finally:
        held.close()
        over.set()
        thread.join(60)


class Killed(BaseException):
    """The process ends here."""


@pytest.fixture
def kill_at() -> Iterator[Callable[[str], None]]:
    """Return a function that arms a kill at a failpoint."""

    def arm(point: str) -> None:
        def hook(reached: str) -> None:
            if reached == point:
                raise Killed

        failpoints.arm(hook)

    yield arm
    failpoints.arm(None)


@pytest.mark.parametrize(
    "point",
    ("image.remove:before", "image.remove:after", "image.erase:before", "image.erase:after"),
)
def test_a_prune_that_is_killed(
    folder: Path, cache: VerifyCache, kill_at: Callable[[str], None], point: str
) -> None:
    """Each image is complete or gone; the next prune does the rest, the clean-up the remains."""
    kill_at(point)
    with pytest.raises(Killed):
        Eviction(folder, cache, Policy(keep_last=1)).prune()
    failpoints.arm(None)

    for path in folder.rglob("cryo.json"):
        if ".cryo-" not in str(path.parent.name):
            held = HeldImage(path.parent)
            held.verify(Verify.FULL, cache, lambda _: None)
            held.close()
    Eviction(folder, cache, Policy(keep_last=1)).prune()
    for path in store.stale_stagings(folder):
        shutil.rmtree(path)
    assert left(folder) == ["c", "d"]


# --- for the event loop -------------------------------------------------------------------------


def config_of(folder: Path, **settings: object) -> Config:
    """Make the configuration of a store."""
    paths = Paths(images=str(folder), verified=str(folder.parent / "verified"))
    return Config(paths=paths, store=Store(**settings))  # type: ignore[arg-type]  # a test's own


async def test_what_the_service_calls(folder: Path, one_bytes: int) -> None:
    """Room is made by the configured policy; a prune may have another one."""
    images = Images(config_of(folder, quota=f"{4 * one_bytes}", keep_last=9))

    assert not await images.make_room(one_bytes, folder.parent / "elsewhere")
    assert await images.make_room(one_bytes, folder / "ns/t4")
    assert left(folder) == ["b", "c", "d"]
    assert not (await images.prune()).removed
    dry = await images.prune(PruneOptions(keep_last=1, dry_run=True))
    assert [one.path.name for one in dry.removed] == ["b"]
    assert left(folder) == ["b", "c", "d"]


async def test_a_prune_that_is_cancelled(folder: Path) -> None:
    """As by Ctrl-C: the removal under way is completed, and no other is begun."""
    loop, cancelled, over = asyncio.get_running_loop(), threading.Event(), threading.Event()

    def hook(point: str) -> None:
        if point == "image.remove:after":
            loop.call_soon_threadsafe(pruning.cancel)
            assert cancelled.wait(60)
        elif point == "image.erase:after":
            over.set()

    failpoints.arm(hook)
    try:
        pruning = asyncio.create_task(Images(config_of(folder)).prune(PruneOptions(quota_bytes=0)))
        with pytest.raises(asyncio.CancelledError):
            await pruning
        cancelled.set()
        await asyncio.to_thread(over.wait, 60)
    finally:
        failpoints.arm(None)

    assert left(folder) == ["b", "c", "d"]


async def test_without_a_policy_nothing_is_looked_at(tmp_path: Path) -> None:
    """Not even a folder that is not there."""
    images = Images(config_of(tmp_path / "none"))

    assert not await images.make_room(1 << 60)
    assert (await images.prune()).removed == ()


async def test_entries_of_removed_images_go(folder: Path, cache: VerifyCache) -> None:
    """Whatever program has removed them: here one that does not know of the cache."""
    image = folder / "ns/t1/a"
    held = HeldImage(image)
    cache.remember_image(image, held.verify(Verify.FULL, cache, lambda _: None))
    held.close()
    verified = folder.parent / "verified"
    assert list(verified.iterdir())
    shutil.rmtree(image)

    await Images(config_of(folder)).prune_cache()

    assert list(verified.iterdir()) == []


async def test_a_mount_that_hangs(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """To make room on it fails in time, and other calls go on."""
    with hung_mount(folder.parent / "hung") as mount:
        images = Images(config_of(mount.path, quota="1GiB"))
        monkeypatch.setattr(images_module, "REMOVE_S", 0.3)
        monkeypatch.setattr(images_module, "LABEL_S", 0.3)

        with pytest.raises(DeadlineExceeded, match="make room in"):
            await images.make_room(1)
        with pytest.raises(DeadlineExceeded):
            await images.tag(str(mount.path / "x"), parse("a", "ns"))
        with pytest.raises(DeadlineExceeded):
            await images.pin("a", "ns", pinned=True)
        pruning = asyncio.create_task(images.prune())
        await asyncio.to_thread(mount.asked.wait, 60)
        assert len(await Images(config_of(folder)).list()) == 4
        assert not pruning.done()
        pruning.cancel()
        await asyncio.wait([pruning], timeout=60)
        assert pruning.cancelled()
