"""Sealing and naming an image."""

from __future__ import annotations

import errno
import os
import stat
import threading
from pathlib import Path

import blake3
import pytest

from shim.errors import AlreadyExists, CryoError, ImageCorrupt, NotFound, ResourceExhausted
from shim.image import manifest as manifests
from shim.image import seal
from shim.image.directory import hash_file, open_image_dir
from shim.image.verify import read_manifest
from tests.unit.helpers_descriptors import descriptors
from tests.unit.image_helpers import FILES, fill, manifest, put, seal_at, sealed


def test_every_file_is_in_the_manifest(tmp_path: Path) -> None:
    """Names, sizes and hashes are those of the files, and what is written is what is returned."""
    done = sealed(tmp_path)

    expected = {name: blake3.blake3(data).hexdigest() for name, data in FILES.items()}
    assert {file.name: file.blake3 for file in done.files} == expected
    assert {file.name: file.size_bytes for file in done.files} == {
        name: len(data) for name, data in FILES.items()
    }
    assert read_manifest(tmp_path) == done


def test_only_the_owner_may_read_it(tmp_path: Path) -> None:
    """Memory holds secrets: every file of an image is private, whatever runsc made it."""
    (fill(tmp_path) / "pages.img").chmod(0o666)

    seal_at(tmp_path, manifest())

    assert {stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()} == {0o600}


def test_progress_adds_up(tmp_path: Path) -> None:
    """The counts that are reported are the bytes that were hashed."""
    counts: list[int] = []

    seal_at(fill(tmp_path), manifest(), on_bytes=counts.append)

    assert sum(counts) == sum(map(len, FILES.values()))


def test_without_a_seal_nothing_is_read(tmp_path: Path) -> None:
    """Sizes only, and the manifest says so."""
    counts: list[int] = []

    done = seal_at(fill(tmp_path), manifest(), sealed=False, on_bytes=counts.append)

    assert counts == []
    assert not done.sealed
    assert {file.blake3 for file in done.files} == {""}
    assert read_manifest(tmp_path) == done


def test_work_stops_when_the_tick_raises(tmp_path: Path) -> None:
    """A cancellation takes effect between pieces, and no thread or manifest is left."""

    def on_bytes(_count: int) -> None:
        message = "gone"
        raise CryoError(message)

    with pytest.raises(CryoError, match="gone"):
        seal_at(fill(tmp_path), manifest(), on_bytes=on_bytes)

    assert not (tmp_path / manifests.NAME).exists()
    assert not [thread for thread in threading.enumerate() if thread.name == "fsync"]


@pytest.mark.parametrize("kind", ("link", "folder", "fifo"))
def test_what_is_no_file_is_refused(tmp_path: Path, kind: str) -> None:
    """Runsc writes regular files; anything else in the folder is not sealed, nor waited for."""
    put(fill(tmp_path) / "odd", kind)

    with pytest.raises(ImageCorrupt, match="odd"):
        seal_at(tmp_path, manifest())


def test_a_file_that_grows_meanwhile_is_refused(tmp_path: Path) -> None:
    """A hash of something that is still being written is worth nothing."""
    fill(tmp_path)

    def on_bytes(_count: int) -> None:
        with (tmp_path / "checkpoint.img").open("ab") as file:
            file.write(b"x")

    with pytest.raises(ImageCorrupt, match="changed while"):
        seal_at(tmp_path, manifest(), on_bytes=on_bytes)


def test_a_failed_sync_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that is full when the data gets there is reported as such."""

    def fsync(_fd: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", fsync)

    with pytest.raises(ResourceExhausted, match="No space"):
        seal_at(fill(tmp_path), manifest())


def test_commit_names_the_image(tmp_path: Path) -> None:
    """The folder has its final name and its content."""
    sealed(tmp_path / "staging")

    seal.commit(tmp_path / "staging", tmp_path / "final")

    assert [path.name for path in tmp_path.iterdir()] == ["final"]
    assert read_manifest(tmp_path / "final").task == "t1"


@pytest.mark.parametrize("kind", ("empty folder", "image", "file", "dangling link"))
@pytest.mark.parametrize("noreplace", (True, False))
def test_commit_replaces_nothing(
    tmp_path: Path, kind: str, noreplace: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever took the name stays, and so does the staging folder, on every filesystem."""
    sealed(tmp_path / "staging")
    final = tmp_path / "final"
    put(final, kind)
    before = final.lstat().st_ino
    if not noreplace:
        monkeypatch.setattr(seal, "_rename", seal._rename_checked)

    with pytest.raises(AlreadyExists, match="final"):
        seal.commit(tmp_path / "staging", final)

    assert final.lstat().st_ino == before
    assert (tmp_path / "staging" / manifests.NAME).exists()


def test_commit_without_a_staging_folder_fails(tmp_path: Path) -> None:
    """Nothing is made of nothing."""
    with pytest.raises(NotFound):
        seal.commit(tmp_path / "staging", tmp_path / "final")


def test_no_descriptor_is_left(tmp_path: Path) -> None:
    """Sealing and reading close what they open, also after a failure."""
    before = len(descriptors())
    sealed(tmp_path / "a")
    (tmp_path / "a" / "odd").mkdir()

    with pytest.raises(ImageCorrupt):
        seal_at(tmp_path / "a", manifest())

    assert len(descriptors()) == before


def test_a_program_is_hashed_by_its_content(tmp_path: Path) -> None:
    """The digest of a binary is that of its bytes, longer than one piece too."""
    data = b"ab" * (5 << 20)
    (tmp_path / "p").write_bytes(data)

    assert hash_file(tmp_path / "p") == blake3.blake3(data).hexdigest()
    with pytest.raises(NotFound):
        hash_file(tmp_path / "q")


def test_a_folder_is_not_opened_through_a_link(tmp_path: Path) -> None:
    """An image is named by its own path."""
    sealed(tmp_path / "a")
    (tmp_path / "b").symlink_to("a")

    with pytest.raises(NotFound), open_image_dir(tmp_path / "b"):
        pass
