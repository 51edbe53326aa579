"""An image that is being loaded or verified is not removed, and a removed one is not loaded."""

from __future__ import annotations

import os
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from shim.errors import Busy, NotFound
from shim.image import deletion, in_use
from shim.image.directory import begin_image_dir
from shim.image.named import Fingerprint, ImageRef, NamedImages
from shim.image.verify import HeldImage, read_manifest
from shim.image.verify_cache import VerifyCache
from shim.model import Verify
from tests.unit.image_helpers import sealed

FIT = Fingerprint(parts={"runsc": "1"})


@pytest.fixture
def cache(tmp_path: Path) -> VerifyCache:
    """Give an empty verification cache."""
    return VerifyCache(tmp_path / "verified")


@pytest.fixture
def named(tmp_path: Path) -> NamedImages:
    """Give a name that has two images, the older and the newer of one fingerprint."""
    made = NamedImages(tmp_path / "images", ImageRef(namespace="ns", name="llama"))
    for hour in (1, 2):
        path = made.new_image(FIT, datetime(2026, 11, 29, hour, tzinfo=UTC))
        sealed(path, timings_s={"save": hour})
    return made


@pytest.fixture
def held(named: NamedImages, cache: VerifyCache) -> Iterator[HeldImage]:
    """Give the older image, verified and not loaded yet."""
    made = HeldImage(named.of(FIT.key)[1])
    made.verify(Verify.NONE, cache, lambda _: None)
    try:
        yield made
    finally:
        made.close()


def test_an_image_in_use_is_not_removed(
    named: NamedImages, held: HeldImage, cache: VerifyCache, tmp_path: Path
) -> None:
    """The error says so; afterwards the image can be removed."""
    with pytest.raises(Busy, match="is in use") as caught:
        deletion.remove(held.image, tmp_path / "images", cache)
    assert caught.value.remedy
    assert held.image in named.of(FIT.key)

    held.close()
    deletion.remove(held.image, tmp_path / "images", cache)
    assert held.image not in named.of(FIT.key)


def test_pruning_leaves_an_image_in_use(
    named: NamedImages, held: HeldImage, cache: VerifyCache
) -> None:
    """It gives the reason, and the next time removes the image."""
    newest = named.of(FIT.key)[0]

    (line,) = named.prune(newest, cache)
    assert "is in use" in line
    assert held.image in named.of(FIT.key)

    held.close()
    assert named.prune(newest, cache) == []
    assert named.of(FIT.key) == [newest]


def test_a_name_in_use_is_not_dropped(
    named: NamedImages, held: HeldImage, cache: VerifyCache
) -> None:
    """The command fails with the reason, and works once the image is loaded."""
    with pytest.raises(Busy, match="is in use"):
        named.drop(cache)
    assert held.image in named.of(FIT.key)

    held.close()
    named.drop(cache)
    assert not named.folder.exists()


@pytest.mark.parametrize("replaced", (False, True))
def test_an_image_that_was_removed_meanwhile(
    named: NamedImages, cache: VerifyCache, tmp_path: Path, replaced: bool
) -> None:
    """A reader that has just opened its folder gets an error, also if the path is used again."""
    path = named.of(FIT.key)[1]
    folder = begin_image_dir(path, strict=True)
    try:
        deletion.remove(path, tmp_path / "images", cache)
        if replaced:
            sealed(path)
        with pytest.raises(NotFound, match="removed or replaced"):
            in_use.keep(folder)
    finally:
        os.close(folder.fd)


def test_names_forget_what_was_verified(
    named: NamedImages, cache: VerifyCache, tmp_path: Path
) -> None:
    """Pruned and dropped images leave no entry in the cache."""
    newest, older = named.of(FIT.key)
    for path in (older, newest):
        cache.remember_image(path, read_manifest(path))
    assert len(list((tmp_path / "verified").iterdir())) == 2

    assert named.prune(newest, cache) == []
    assert len(list((tmp_path / "verified").iterdir())) == 1
    named.drop(cache)

    assert list((tmp_path / "verified").iterdir()) == []


def test_others_may_use_an_image_too(held: HeldImage, cache: VerifyCache) -> None:
    """Several containers are restored from one image at once."""
    second = HeldImage(held.image)
    try:
        assert second.verify(Verify.NONE, cache, lambda _: None) == read_manifest(held.image)
    finally:
        second.close()


def test_a_name_is_not_dropped_while_an_image_is_saved(
    named: NamedImages, cache: VerifyCache
) -> None:
    """Its unfinished image stays, and so do the others."""
    fd = named.lock(FIT.key)
    assert fd is not None
    try:
        with pytest.raises(Busy, match="being saved as llama"):
            named.drop(cache)
        assert len(named.of(FIT.key)) == 2
    finally:
        os.close(fd)

    assert named.drop(cache) == 2
