"""The labels in an image's folder: kept with it, ignored by its verification, safe to read."""

from __future__ import annotations

import os
import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from shim.errors import NotFound, ResourceExhausted
from shim.image import labels
from shim.image.directory import open_image_dir
from shim.image.labels import Labels, NameLabel
from shim.image.name import parse
from shim.image.side_files import LABELS
from shim.image.verify import verify
from shim.image.verify_cache import VerifyCache, identities
from shim.model import Verify
from tests.unit.image_helpers import ProgressLog, fill, manifest, put, seal_at, sealed

NAME = parse("llama:warm", "ns")
NOW = datetime(2026, 11, 29, 12, 0, tzinfo=UTC)
ALL = Labels(
    names=(NameLabel(name=NAME, since=NOW),),
    pinned=True,
    expires_at=NOW + timedelta(days=1),
    source="registry.example.com/llama:warm",
)


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """Give a sealed image."""
    sealed(tmp_path / "image")
    return tmp_path / "image"


def test_what_is_written_is_read(image: Path) -> None:
    """Everything, and the time of the last change as that of the last use."""
    labels.write(image, ALL)
    os.utime(image / LABELS, (NOW.timestamp(), NOW.timestamp()))

    assert labels.read(image) == msgspec.structs.replace(ALL, last_used_at=NOW)
    assert (image / LABELS).stat().st_mode & 0o777 == 0o600


def test_an_image_without_labels(image: Path) -> None:
    """It has none, and was never used."""
    assert labels.read(image) == Labels()
    assert labels.read(image / "none") == Labels()


def test_a_use_changes_nothing_else(image: Path) -> None:
    """The time of the file is that of the use; names and the pin stay."""
    labels.note_use(image, NOW)
    assert labels.read(image) == Labels(last_used_at=NOW)

    labels.write(image, ALL)
    labels.note_use(image, NOW + timedelta(hours=1))
    assert labels.read(image) == msgspec.structs.replace(ALL, last_used_at=NOW + timedelta(hours=1))


@pytest.mark.parametrize("mode", tuple(Verify))
def test_the_seal_does_not_cover_them(image: Path, tmp_path: Path, mode: Verify) -> None:
    """An image with labels, and with what a killed writer left of them, is as good as before."""
    labels.write(image, ALL)
    (image / f".{LABELS}.0123abcd.tmp").write_bytes(b"half")

    assert verify(image, mode, VerifyCache(tmp_path / "verified"), ProgressLog()).task == "t1"
    assert LABELS not in identities(image)
    with open_image_dir(image) as folder:
        assert folder.size_bytes == sum(
            path.stat().st_size for path in image.iterdir() if LABELS not in path.name
        )


def test_labels_are_not_sealed(tmp_path: Path) -> None:
    """An image that has labels when it is sealed does not list them."""
    folder = fill(tmp_path / "image")
    labels.write(folder, ALL)

    made = seal_at(folder, manifest())

    assert [file.name for file in made.files] == ["checkpoint.img", "pages.img"]


@pytest.mark.parametrize("name", (".cryo-labels.json.x", ".cryo-labels.jso", "x.tmp", ".x.tmp"))
def test_only_they_are_ignored(image: Path, tmp_path: Path, name: str) -> None:
    """Any other file that was added is found."""
    (image / name).touch()

    with pytest.raises(Exception, match="is not part of it"):
        verify(image, Verify.NONE, VerifyCache(tmp_path / "verified"), ProgressLog())


@pytest.mark.parametrize("kind", ("link", "dangling link", "fifo", "folder"))
def test_what_is_no_file_is_a_pin(image: Path, kind: str) -> None:
    """It may have been a pin, so nothing removes the image by itself."""
    put(image / LABELS, kind)

    assert labels.read(image).pinned


@settings(suppress_health_check=(HealthCheck.function_scoped_fixture,), deadline=None)
@given(data=st.binary(min_size=1, max_size=300))
def test_any_damage_is_a_pin_or_labels(image: Path, data: bytes) -> None:
    """Whatever the file has, it can be read; what is no JSON object is a pin."""
    (image / LABELS).write_bytes(data)

    found = labels.read(image)

    assert found.pinned or data.lstrip().startswith(b"{")


@pytest.mark.parametrize(
    "data",
    (
        b'{"names": [{"name": {"namespace": "../x", "repository": "a"}, "since": "2026-01-01"}]}',
        b'{"names": [{"name": {"namespace": "x", "repository": "/a"}, "since": "2026-01-01"}]}',
        b'{"expires_at": "2026-01-01T00:00:00"}',
        b'{"source": "' + b"x" * 5000 + b'"}',
        b'{"x": ' + b"[" * 100_000,
        b"{}" + b" " * (300 << 10),
    ),
)
def test_hostile_labels_are_a_pin(image: Path, data: bytes) -> None:
    """Names that are none, times without zone, too much of anything.

    The image also counts as one from elsewhere, as its labels may have said.
    """
    (image / LABELS).write_bytes(data)

    found = labels.read(image)
    assert (found.names, found.pinned) == ((), True)
    assert found.source is not None


def test_an_empty_file_has_no_labels(image: Path) -> None:
    """A first use that a crash of the machine interrupted leaves it empty."""
    (image / LABELS).touch()

    assert labels.read(image).names == ()
    assert not labels.read(image).pinned


def test_there_is_a_limit_of_names() -> None:
    """The last of too many is refused; one that it has already is not."""
    many = Labels()
    for number in range(256):
        many = many.with_name(parse(f"a:{number}", "ns"), NOW)

    with pytest.raises(ResourceExhausted, match="256 names"):
        many.with_name(NAME, NOW)
    assert len(many.with_name(parse("a:7", "ns"), NOW).names) == 256


def test_an_image_that_is_gone(image: Path) -> None:
    """Its labels cannot be changed, nor its use recorded."""
    shutil.rmtree(image)

    with pytest.raises(NotFound), labels.keeping(image):
        pass
    with pytest.raises(NotFound):
        labels.note_use(image, NOW)
