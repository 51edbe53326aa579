"""Copying an image out of a stage: what arrives, what is freed, and what a failure leaves."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Collection
from concurrent.futures import Future, wait
from pathlib import Path

import blake3
import pytest

from shim.errors import CryoError, ResourceExhausted
from shim.host import dirty_pages, page_cache
from shim.host.tmpfs import Tmpfs
from shim.image import copying
from shim.image.directory import ImageDir, open_image_dir
from shim.image.hashing import ignore_bytes
from shim.image.manifest import ImageFile
from tests.unit.helpers_descriptors import descriptors
from tests.unit.helpers_filesystems import (
    needs_disk,
    needs_root,
    small_disk,
    without_direct_writes,
)

MIB = 1 << 20
CONTENT = {
    "checkpoint.img": b"state",
    "empty.img": b"",
    "pages.img": os.urandom(9 * MIB) + b"the rest",
}
ROOM = {"cached": 1 << 40, "direct": 0}


@pytest.fixture(params=ROOM, autouse=True)
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Give the page cache room for the image, or none; return how it is written."""
    way = str(request.param)
    monkeypatch.setattr(dirty_pages, "room_bytes", lambda: ROOM[way])
    return way


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


@needs_root
def test_memory_of_a_real_stage_is_freed(into: Path) -> None:
    """The tmpfs has room again for all that was copied."""
    stage = Tmpfs(32 * MIB)
    try:
        (stage.path / "pages.img").write_bytes(CONTENT["pages.img"])
        before = stage.free_bytes
        with open_image_dir(into) as target:
            source = ImageDir(stage.path, stage.fd)
            copying.copy(source, target, ignore_bytes, sealed=True, free=True)
        assert (into / "pages.img").read_bytes() == CONTENT["pages.img"]
        assert stage.free_bytes - before >= 9 * MIB
    finally:
        stage.close()


@needs_disk
def test_a_large_image_is_not_in_the_page_cache(stage: Path, tmp_path: Path, way: str) -> None:
    """One for which it has no room is written past it, but for tails and small files."""
    with small_disk(tmp_path, 64 * MIB) as disk:
        _copy(stage, disk, [])
        with (disk / "pages.img").open("rb") as file:
            cached = page_cache.cached_bytes(file.fileno())

    if cached is None:
        pytest.skip("the kernel has no cachestat")
    assert cached <= 4096 if way == "direct" else cached >= 9 * MIB


@needs_root
def test_folder_without_direct_writes(stage: Path, tmp_path: Path) -> None:
    """A filesystem that refuses them gets the same files."""
    with without_direct_writes(tmp_path) as path:
        made = _copy(stage, path, [])

        assert {path.name: path.read_bytes() for path in path.iterdir()} == CONTENT
        assert {one.blake3 for one in made} == {
            blake3.blake3(data).hexdigest() for data in CONTENT.values()
        }


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


@needs_disk
def test_really_full_disk(stage: Path, tmp_path: Path) -> None:
    """It is the same error, and no descriptor or thread is left."""
    with small_disk(tmp_path, 8 * MIB) as disk:
        before = descriptors()
        with pytest.raises(ResourceExhausted, match="No space left") as caught:
            _copy(stage, disk, [])
        assert descriptors() == before

    assert caught.value.remedy
    assert not _writers()


def _writers() -> list[str]:
    return [one.name for one in threading.enumerate() if one.name.startswith("write")]


def test_failed_sync(stage: Path, into: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An image that may not be on the disk is none."""

    def fail(_fd: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(CryoError, match="write the image"):
        _copy(stage, into, [])


def test_cancelled_between_pieces(stage: Path, into: Path) -> None:
    """The report of progress can end the copy; no descriptor or thread is left."""
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
    assert not _writers()


def test_files_are_open_until_the_last_write(
    stage: Path, into: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A copy that ends early waits for the writes that have begun."""
    ending, closed = threading.Event(), list[int]()
    plain = os.pwrite

    def wait_and_tell(writing: Collection[Future[None]]) -> None:
        ending.set()
        wait(writing)

    def pwrite(fd: int, data: memoryview, at: int) -> int:
        ending.wait(5)
        try:
            return plain(fd, data, at)
        except OSError:
            closed.append(fd)
            raise

    def stop(count: int) -> None:
        if count > MIB:
            message = "stop"
            raise CryoError(message)

    (stage / "checkpoint.img").unlink()
    monkeypatch.setattr(copying, "wait", wait_and_tell)
    monkeypatch.setattr(os, "pwrite", pwrite)
    with (
        open_image_dir(stage) as source,
        open_image_dir(into) as target,
        pytest.raises(CryoError, match="stop"),
    ):
        copying.copy(source, target, stop, sealed=True, free=True)

    assert ending.is_set()
    assert closed == []
