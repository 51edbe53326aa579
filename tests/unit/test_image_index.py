"""Names of images in the store: given, moved, taken, and found again from the images alone."""

from __future__ import annotations

import os
import shutil
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from shim import failpoints
from shim.errors import Busy, InvalidArgument, NotFound, Refused
from shim.image import deletion, labels, store, tagging
from shim.image.directory import begin_image_dir
from shim.image.in_use import keep
from shim.image.index import NameIndex
from shim.image.name import parse
from shim.image.side_files import LABELS
from shim.image.store_lock import NAMES, store_lock
from shim.image.verify_cache import VerifyCache
from tests.unit.image_helpers import sealed

NAME = parse("llama:warm", "ns")
OTHER = parse("llama:cold", "ns")
NOW = datetime(2026, 11, 29, 12, 0, tzinfo=UTC)
LATER = NOW + timedelta(seconds=1)
INDEX = ".cryo-index.json"


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Give a folder with two images."""
    for name in ("a", "b"):
        sealed(tmp_path / "images" / "ns" / "t1" / name)
    return tmp_path / "images"


@pytest.fixture
def one(images: Path) -> Path:
    """Give the first image."""
    return images / "ns" / "t1" / "a"


@pytest.fixture
def two(images: Path) -> Path:
    """Give the second image."""
    return images / "ns" / "t1" / "b"


@pytest.fixture
def cache(tmp_path: Path) -> VerifyCache:
    """Give an empty verification cache."""
    return VerifyCache(tmp_path / "verified")


def find(images: Path, text: str, namespace: str = "ns") -> Path:
    """Return the image of a name."""
    return store.resolve_existing(text, images, namespace)


def test_a_name_refers_to_an_image(images: Path, one: Path) -> None:
    """In its namespace alone, and beside the path."""
    tagging.tag(images, one, NAME, NOW)

    assert find(images, "llama:warm") == one
    assert find(images, str(one)) == one
    for text, namespace in (("llama:warm", "other"), ("llama", "ns"), ("llama:cold", "ns")):
        with pytest.raises(NotFound, match="no image is named"):
            find(images, text, namespace)


def test_a_name_moves(images: Path, one: Path, two: Path) -> None:
    """Given to another image, the first one loses it."""
    tagging.tag(images, one, NAME, NOW)
    tagging.tag(images, one, OTHER, NOW)
    tagging.tag(images, two, NAME, LATER)

    assert find(images, "llama:warm") == two
    assert [each.name for each in labels.read(one).names] == [OTHER]


def test_a_name_is_given_again(images: Path, one: Path) -> None:
    """Twice to one image, also by a path through a link, is once."""
    (images / "link").symlink_to(one.parent)
    tagging.tag(images, one, NAME, NOW)
    tagging.tag(images, images / "link" / "a", NAME, LATER)

    assert [each.name for each in labels.read(one).names] == [NAME]
    assert find(images, "llama:warm") == one


def test_a_name_is_taken(images: Path, one: Path, two: Path) -> None:
    """Only from the image that has it."""
    tagging.tag(images, one, NAME, NOW)
    with pytest.raises(NotFound, match="is not named"):
        tagging.untag(images, two, NAME)

    tagging.untag(images, one, NAME)

    with pytest.raises(NotFound):
        find(images, "llama:warm")


@pytest.mark.parametrize("damage", ("removed", "garbage", "wrong", "hostile", "a folder"))
def test_the_index_is_only_a_cache(images: Path, one: Path, two: Path, damage: str) -> None:
    """Whatever becomes of its file, a name refers to the image that has it."""
    tagging.tag(images, one, NAME, NOW)
    file = images / INDEX
    file.unlink()
    if damage == "garbage":
        file.write_bytes(b"\xff{")
    elif damage == "wrong":
        file.write_text(f'{{"names": {{"ns": {{"llama:warm": "ns/t1/{two.name}"}}}}}}')
    elif damage == "hostile":
        file.write_text(f'{{"names": {{"ns": {{"llama:warm": "../images/ns/t1/{one.name}"}}}}}}')
    elif damage == "a folder":
        file.mkdir()

    assert find(images, "llama:warm") == one


def test_images_take_their_names_along(images: Path, one: Path, tmp_path: Path) -> None:
    """Moved within the store, copied into another one, removed by any program."""
    tagging.tag(images, one, NAME, NOW)
    shutil.copytree(images, tmp_path / "copy")
    moved = images / "ns" / "t9" / "z"
    moved.parent.mkdir()
    one.rename(moved)

    assert find(images, "llama:warm") == moved
    assert find(tmp_path / "copy", "llama:warm") == tmp_path / "copy" / "ns" / "t1" / "a"
    shutil.rmtree(moved)
    with pytest.raises(NotFound):
        find(images, "llama:warm")


def test_a_copy_has_the_name_too(images: Path, one: Path, cache: VerifyCache) -> None:
    """The original keeps it; when that is removed the copy has it; a tag takes it from both."""
    tagging.tag(images, one, NAME, NOW)
    copy = one.with_name("z")
    shutil.copytree(one, copy)

    assert find(images, "llama:warm") == one
    deletion.remove(one, images, cache)
    assert find(images, "llama:warm") == copy
    tagging.tag(images, one.with_name("b"), NAME, LATER)
    assert labels.read(copy).names == ()


def test_the_later_of_two_has_a_name(images: Path, one: Path, two: Path) -> None:
    """As after a kill between both writes: the newer label counts."""
    labels.write(one, labels.read(one).with_name(NAME, LATER))
    labels.write(two, labels.read(two).with_name(NAME, NOW))

    assert find(images, "llama:warm") == one


def test_only_images_of_the_store_have_names(images: Path, tmp_path: Path) -> None:
    """Neither one elsewhere, nor a folder without a manifest."""
    sealed(tmp_path / "elsewhere")

    with pytest.raises(InvalidArgument, match="is not below"):
        tagging.tag(images, tmp_path / "elsewhere", NAME, NOW)
    with pytest.raises(InvalidArgument, match="is not below"):
        tagging.pin(images, tmp_path / "elsewhere", pinned=True)
    with pytest.raises(NotFound, match="is not an image"):
        tagging.tag(images, images / "ns", NAME, NOW)


def test_an_image_is_removed_with_its_last_name(
    images: Path, one: Path, cache: VerifyCache
) -> None:
    """The others are removed alone."""
    tagging.tag(images, one, NAME, NOW)
    tagging.tag(images, one, OTHER, NOW)

    assert not deletion.remove_ref("llama:warm", images, cache, "ns")
    assert one.exists()
    with pytest.raises(NotFound):
        find(images, "llama:warm")
    assert deletion.remove_ref("llama:cold", images, cache, "ns")
    assert not one.exists()


def test_a_pinned_image_stays(images: Path, one: Path, cache: VerifyCache) -> None:
    """By its path and its last name; the remedy is the command that unpins it."""
    tagging.tag(images, one, NAME, NOW)
    tagging.pin(images, one, pinned=True)

    for text in (str(one), "llama:warm"):
        with pytest.raises(Refused, match="is pinned") as caught:
            deletion.remove_ref(text, images, cache, "ns")
        assert caught.value.remedy == f"cryo checkpoints unpin {one}"
    tagging.pin(images, one, pinned=False)
    assert deletion.remove_ref("llama:warm", images, cache, "ns")


def test_a_damaged_label_can_be_unpinned(images: Path, one: Path, cache: VerifyCache) -> None:
    """It counts as a pin until then."""
    (one / LABELS).write_bytes(b"damage")
    with pytest.raises(Refused):
        deletion.remove_ref(str(one), images, cache, "ns")

    tagging.pin(images, one, pinned=False)

    assert deletion.remove_ref(str(one), images, cache, "ns")


def test_an_image_in_use_keeps_its_name(images: Path, one: Path, cache: VerifyCache) -> None:
    """A removal by name that fails changes nothing."""
    tagging.tag(images, one, NAME, NOW)
    folder = begin_image_dir(one, strict=True)
    keep(folder)
    try:
        with pytest.raises(Busy, match="is in use"):
            deletion.remove_ref("llama:warm", images, cache, "ns")
    finally:
        os.close(folder.fd)
    assert find(images, "llama:warm") == one


def test_a_name_that_comes_meanwhile_keeps_the_image(
    images: Path, one: Path, cache: VerifyCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A name that is given between the look and the removal is not lost with the image."""
    tagging.tag(images, one, NAME, NOW)
    plain = deletion.remove

    def later(*given: object) -> None:
        tagging.tag(images, one, OTHER, NOW)
        plain(*given)  # type: ignore[arg-type]  # what the caller gives

    monkeypatch.setattr(deletion, "remove", later)
    with pytest.raises(Refused, match="another name"):
        deletion.remove_ref("llama:warm", images, cache, "ns")
    assert find(images, "llama:cold") == one


class Killed(BaseException):
    """The process ends here."""


@pytest.mark.parametrize("nth", range(1, 7))
def test_a_tag_that_is_killed(images: Path, one: Path, two: Path, nth: int) -> None:
    """At any step: the name refers to the old or the new image, and goes on to do so."""
    tagging.tag(images, one, NAME, NOW)
    seen: list[str] = []

    def kill(point: str) -> None:
        seen.append(point)
        if len(seen) == nth:
            raise Killed

    failpoints.arm(kill)
    try:
        with pytest.raises(Killed):
            tagging.tag(images, two, NAME, LATER)
    finally:
        failpoints.arm(None)

    found = find(images, "llama:warm")
    assert found == (one if nth == 1 else two)
    (images / INDEX).unlink()
    assert find(images, "llama:warm") == found
    tagging.tag(images, two, NAME, LATER)
    assert find(images, "llama:warm") == two


@pytest.mark.parametrize(
    "point", ("image.remove:before", "image.remove:after", "image.erase:before")
)
def test_a_removal_that_is_killed(images: Path, one: Path, cache: VerifyCache, point: str) -> None:
    """The image is complete, or gone with its name; what is left is removed by the clean-up."""
    tagging.tag(images, one, NAME, NOW)

    def kill(reached: str) -> None:
        if reached == point:
            raise Killed

    failpoints.arm(kill)
    try:
        with pytest.raises(Killed):
            deletion.remove_ref("llama:warm", images, cache, "ns")
    finally:
        failpoints.arm(None)

    if point.endswith("remove:before"):
        assert find(images, "llama:warm") == one
        return
    with pytest.raises(NotFound):
        find(images, "llama:warm")
    assert len(store.stale_stagings(images)) == 1


def test_names_are_changed_by_one_at_a_time(images: Path, one: Path, two: Path) -> None:
    """Of many that give a name to two images at once, the last has it, and only that image."""

    def give(image: Path) -> None:
        for number in range(20):
            tagging.tag(images, image, NAME, NOW + timedelta(seconds=number))

    threads = [threading.Thread(target=give, args=(image,)) for image in (one, two)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)

    holders = NameIndex(images).holders(NAME)
    assert len(holders) == 1
    assert find(images, "llama:warm") == holders[0]


def test_a_lock_that_is_not_released(images: Path) -> None:
    """A process that hangs with it holds others up for a while, not without end."""
    again = store_lock(images, NAMES, wait_s=0.05)

    with store_lock(images, NAMES), pytest.raises(Busy, match="image store is in use"), again:
        pass


def test_no_folder_no_names(tmp_path: Path) -> None:
    """Before the first checkpoint no name is found, and nothing is made."""
    assert NameIndex(tmp_path / "none").find(NAME) is None
    assert not (tmp_path / "none").exists()


def test_an_index_that_cannot_be_written(images: Path, one: Path) -> None:
    """As on a full disk: names are given and found without it."""
    (images / INDEX).mkdir()
    (images / INDEX / "file").touch()
    labels.write(one, labels.read(one).with_name(OTHER, NOW))

    assert find(images, "llama:cold") == one


def test_a_lookup_of_nothing_writes_nothing(images: Path, one: Path) -> None:
    """An index that agrees with the images is not written again."""
    tagging.tag(images, one, NAME, NOW)
    before = (images / INDEX).stat().st_ino

    assert NameIndex(images).find(OTHER) is None

    assert (images / INDEX).stat().st_ino == before
