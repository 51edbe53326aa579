"""Transfers: where a pulled image goes, and how it is named."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path

import pytest

from shim.config import Config, Paths
from shim.distribution.settings import TransferSettings
from shim.errors import (
    AlreadyExists,
    Busy,
    CryoError,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
)
from shim.image import labels
from shim.image.images import Images
from shim.image.named import Fingerprint, ImageRef, NamedImages
from shim.image.verify import read_manifest
from shim.model import Progress
from shim.task.transfers import Transfers
from tests.unit.image_helpers import sealed

SETTINGS = TransferSettings()
AT = datetime(2026, 11, 29, tzinfo=UTC)


def ignore(_progress: Progress) -> None:
    """Take progress."""


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Return the folder of images."""
    return tmp_path / "images"


@pytest.fixture
def transfers(images: Path, tmp_path: Path) -> Transfers:
    """Make the transfers of an empty host."""
    paths = Paths(images=str(images), verified=str(tmp_path / "verified"))
    config = Config(paths=paths)
    return Transfers(config, Images(config))


async def test_a_pulled_image_has_its_name(transfers: Transfers, images: Path) -> None:
    """It is named as the reference ends, and its labels say where it is from."""
    made = sealed(images / "default" / "job" / "1")
    layout = f"oci:{images.parent}/llama:v1"

    pushed = await transfers.push(
        str(images / "default" / "job" / "1"), "default", layout, SETTINGS, ignore
    )
    pulled = await transfers.pull(layout, "team", SETTINGS, ignore)

    path = Path(pulled.image_path)
    assert path == images / "team" / "llama" / made.digest[:16]
    assert read_manifest(path) == made
    assert (pulled.name, pulled.digest) == ("llama:v1", pushed.digest)
    found = labels.read(path)
    assert found.source == layout
    assert [str(one.name) for one in found.names] == ["llama:v1"]


async def test_an_image_is_pulled_once(transfers: Transfers, images: Path) -> None:
    """The second pull copies nothing; another name is another folder."""
    sealed(images / "there" / "job" / "1")
    layout = f"oci:{images.parent}/llama"
    await transfers.push(str(images / "there" / "job" / "1"), "default", layout, SETTINGS, ignore)

    first = await transfers.pull(layout, "default", SETTINGS, ignore)
    second = await transfers.pull(layout, "default", SETTINGS, ignore)
    third = await transfers.pull(layout, "default", SETTINGS, ignore, name="other/one:v2")

    assert first.bytes_moved > 0
    assert (second.image_path, second.bytes_moved) == (first.image_path, 0)
    assert second.bytes_reused == first.bytes_moved
    assert third.image_path.startswith(str(images / "default" / "other_one"))


async def test_chunks_of_other_namespaces_are_not_taken(
    transfers: Transfers, images: Path, tmp_path: Path
) -> None:
    """Who knows the digest of a chunk could read it by an image that has it."""
    sealed(images / "default" / "job" / "1")
    layout = f"oci:{tmp_path}/llama"
    await transfers.push(str(images / "default" / "job" / "1"), "default", layout, SETTINGS, ignore)

    other = await transfers.pull(layout, "team", SETTINGS, ignore)
    same = await transfers.pull(layout, "default", SETTINGS, ignore)
    again = await transfers.pull(layout, "team", SETTINGS, ignore, name="b")

    assert (other.bytes_reused, same.bytes_moved, again.bytes_moved) == (0, 0, 0)


async def test_another_image_at_the_path(transfers: Transfers, images: Path) -> None:
    """It is not replaced, and the error says so."""
    made = sealed(images / "default" / "job" / "1")
    layout = f"oci:{images.parent}/llama"
    await transfers.push(str(images / "default" / "job" / "1"), "default", layout, SETTINGS, ignore)
    sealed(images / "default" / "llama" / made.digest[:16], task="other")

    with pytest.raises(AlreadyExists, match="is not oci:"):
        await transfers.pull(layout, "default", SETTINGS, ignore)


async def test_an_image_for_warm_starts(transfers: Transfers, images: Path) -> None:
    """It is found by its fingerprint, once, and replaces the older one of that."""
    mine = Fingerprint(parts={"runsc": "1"})
    here = NamedImages(images, ImageRef(namespace="default", name="llama"))
    saved = here.new_image(mine, AT)
    sealed(saved)
    layout = f"oci:{images.parent}/llama"
    await transfers.push(str(saved), "default", layout, SETTINGS, ignore)
    there = ImageRef(namespace="k8s.io", name="job", kubernetes_namespace="team-a")
    named = NamedImages(images, there)
    sealed(named.new_image(mine, AT), task="older")

    first = await transfers.pull_warm(layout, there, SETTINGS, ignore)
    second = await transfers.pull_warm(layout, there, SETTINGS, ignore)

    assert named.of(mine.key) == [Path(first.image_path)]
    assert named.parts(mine.key) == mine
    assert (second.image_path, second.bytes_moved) == (first.image_path, 0)
    assert labels.read(Path(first.image_path)).source == f"{layout}:latest"


async def test_an_image_without_fingerprint(transfers: Transfers, images: Path) -> None:
    """It is refused, as no container would find it, and nothing is left of it."""
    sealed(images / "default" / "job" / "1")
    layout = f"oci:{images.parent}/llama"
    await transfers.push(str(images / "default" / "job" / "1"), "default", layout, SETTINGS, ignore)
    ref = ImageRef(namespace="default", name="llama")

    with pytest.raises(FailedPrecondition, match="no fingerprint"):
        await transfers.pull_warm(layout, ref, SETTINGS, ignore)
    assert not ref.folder(images).exists()


async def test_a_name_whose_image_is_being_saved(transfers: Transfers, images: Path) -> None:
    """The pull waits for nothing: it is refused."""
    mine = Fingerprint(parts={"runsc": "1"})
    ref = ImageRef(namespace="default", name="llama")
    named = NamedImages(images, ref)
    saved = named.new_image(mine, AT)
    sealed(saved)
    layout = f"oci:{images.parent}/llama"
    await transfers.push(str(saved), "default", layout, SETTINGS, ignore)
    lock = named.lock(mine.key)
    assert lock is not None
    try:
        with pytest.raises(Busy):
            await transfers.pull_warm(layout, ref, SETTINGS, ignore)
    finally:
        os.close(lock)
    await transfers.pull_warm(layout, ref, SETTINGS, ignore)


@pytest.mark.parametrize(
    ("reference", "name", "error"),
    (
        ("llama:v1", None, InvalidArgument),
        ("oci:{here}/none", None, NotFound),
        ("oci:{here}/none", "Not A Name", InvalidArgument),
    ),
)
async def test_what_cannot_be_pulled(
    transfers: Transfers, tmp_path: Path, reference: str, name: str | None, error: type[CryoError]
) -> None:
    """A wrong reference, place or name is one typed error."""
    wanted = reference.format(here=tmp_path)
    with pytest.raises(error):
        await transfers.pull(wanted, "default", SETTINGS, ignore, name=name)


async def test_what_cannot_be_pushed(transfers: Transfers, tmp_path: Path) -> None:
    """An image that is not there is one typed error, and nothing is made of the place."""
    with pytest.raises(NotFound):
        await transfers.push("/no/image", "default", f"oci:{tmp_path}/a", SETTINGS, ignore)
    assert not (tmp_path / "a").exists()
