"""Copying an image out of a stage: what arrives, what is freed, and what a failure leaves."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import blake3
import pytest

from shim.errors import CryoError, ResourceExhausted
from shim.image import copying
from shim.image.directory import open_image_dir
from shim.image.manifest import ImageFile
from tests.unit.helpers_descriptors import descriptors

MIB = 1 << 20
CONTENT = {
    "checkpoint.img": b"state",
    "empty.img": b"",
    "pages.img": os.urandom(3 * MIB) + b"the rest",
}


@pytest.fixture
def stage(tmp_path: Path) -> Path:
    """Give a stage with three files."""
    folder = tmp_path / "stage"
    folder.mkdir()
    for name, data in CONTENT.items():
        (folder / name).write_bytes(data)
    return folder


@pytest.fixture
def into(tmp_path: Path) -> Path:
    """Give an empty folder."""
    folder = tmp_path / "into"
    folder.mkdir()
    return folder


def _copy(
    stage: Path, into: Path, counts: list[int], *, sealed: bool = True, free: bool = False
) -> tuple[ImageFile, ...]:
    with open_image_dir(stage) as source, open_image_dir(into) as target:
        return copying.copy(source, target, counts.append, sealed=sealed, free=free)


def test_files_and_digests(stage: Path, into: Path) -> None:
    """Every byte arrives, and the entries are those of a seal."""
    counts: list[int] = []

    made = _copy(stage, into, counts)

    assert {path.name: path.read_bytes() for path in into.iterdir()} == CONTENT
    assert {one.name: one.blake3 for one in made} == {
        name: blake3.blake3(data).hexdigest() for name, data in CONTENT.items()
    }
    assert {one.name: one.size_bytes for one in made} == {
        name: len(data) for name, data in CONTENT.items()
    }
    assert sum(counts) == sum(map(len, CONTENT.values()))
    assert {path.stat().st_mode & 0o777 for path in into.iterdir()} == {0o600}
    assert (stage / "pages.img").read_bytes() == CONTENT["pages.img"]


def test_memory_is_freed_on_the_way(stage: Path, into: Path) -> None:
    """What was written is no longer in the stage."""
    _copy(stage, into, [], free=True)

    assert {path.name: path.read_bytes() for path in into.iterdir()} == CONTENT
    assert (stage / "pages.img").stat().st_blocks <= 8


def test_without_digests(stage: Path, into: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a seal nothing is hashed, or waited for."""
    monkeypatch.delattr(os, "fsync")

    made = _copy(stage, into, [], sealed=False)

    assert {path.name: path.read_bytes() for path in into.iterdir()} == CONTENT
    assert {one.blake3 for one in made} == {""}


def test_full_disk(stage: Path, into: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error of the writing thread is the error of the copy."""

    def full(_fd: int, _data: bytes, _at: int) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(ResourceExhausted, match="No space left") as caught:
        _copy(stage, into, [])

    assert caught.value.remedy


def test_failed_sync(stage: Path, into: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An image that may not be on the disk is none."""

    def fail(_fd: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(CryoError, match="write the image"):
        _copy(stage, into, [])


def test_cancelled_between_pieces(stage: Path, into: Path) -> None:
    """The report of progress can end the copy; no descriptor is left."""
    before = descriptors()

    def stop(_count: int) -> None:
        message = "stop"
        raise CryoError(message)

    with (
        open_image_dir(stage) as source,
        open_image_dir(into) as target,
        pytest.raises(CryoError, match="stop"),
    ):
        copying.copy(source, target, stop, sealed=True, free=True)

    assert descriptors() == before
