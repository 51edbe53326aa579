"""Images by name: where they are looked up, which one is found, and what is never followed."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from shim.errors import InvalidArgument, PermissionDenied
from shim.image import listing
from shim.image.named import PARTS, Fingerprint, ImageRef, NamedImages
from tests.unit.image_helpers import sealed

ONE = Fingerprint(parts={"runsc": "1", "spec process.args": ["a"]})
OTHER = Fingerprint(parts={"runsc": "2", "spec process.args": ["a"]})


def at(hour: int) -> datetime:
    """Return a time."""
    return datetime(2026, 11, 29, hour, tzinfo=UTC)


@pytest.fixture
def images(tmp_path: Path) -> NamedImages:
    """Give the images of a name, of which there are none."""
    return NamedImages(tmp_path / "images", ImageRef(namespace="ns", name="llama"))


def test_a_name_is_below_its_namespaces(tmp_path: Path) -> None:
    """A pod's name is below its Kubernetes namespace, and any other's is not."""
    pod = ImageRef(namespace="k8s.io", name="llama", kubernetes_namespace="team-a")

    assert pod.folder(tmp_path) == tmp_path / "k8s.io" / "team-a" / "llama"
    assert ImageRef(namespace="ns", name="x").folder(tmp_path) == tmp_path / "ns" / "x"


@pytest.mark.parametrize("name", ("", "..", ".x", "a/b", "a\n", "x" * 77))
def test_a_name_is_one_visible_path_component(name: str) -> None:
    """Nothing that leads elsewhere is a name, in any of its three parts."""
    for parts in (
        {"namespace": name, "name": "x"},
        {"namespace": "ns", "name": name},
        {"namespace": "ns", "name": "x", "kubernetes_namespace": name},
    ):
        with pytest.raises(InvalidArgument, match="not valid"):
            ImageRef(**parts)


def test_the_newest_complete_image_is_found(images: NamedImages) -> None:
    """A folder without a manifest, such as one being written, is no image."""
    assert images.find(ONE.key) is None
    older = images.new_image(ONE, at(1))
    newer = images.new_image(ONE, at(2))
    sealed(older)
    newer.mkdir()
    assert images.find(ONE.key) == older
    sealed(newer)

    assert images.find(ONE.key) == newer
    assert images.find(OTHER.key) is None
    sealed(images.new_image(OTHER, at(3)))
    assert images.fingerprints() == [OTHER.key, ONE.key]
    assert {view.path for view in listing.list_images(images.folder.parents[1])} == {
        str(older),
        str(newer),
        str(images.find(OTHER.key)),
    }


def test_what_a_fingerprint_was_computed_from(images: NamedImages) -> None:
    """It lies beside the images, and one that is damaged is as good as none."""
    images.new_image(ONE, at(1))
    assert images.parts(ONE.key) == ONE
    assert images.parts(OTHER.key) is None

    (images.folder / ONE.key / PARTS).write_text('{"parts": [[[')

    assert images.parts(ONE.key) is None


def test_a_key_is_that_of_its_parts() -> None:
    """Equal parts have one key, in any order; no other text is accepted as one."""
    again = Fingerprint(parts=dict(reversed(ONE.parts.items())))

    assert again.key == ONE.key != OTHER.key


@pytest.mark.parametrize("key", ("..", "a" * 31, "A" * 32, "a" * 32 + "\n"))
def test_another_key_is_refused(images: NamedImages, key: str) -> None:
    """A fingerprint is a folder's name, so it is checked as well."""
    with pytest.raises(InvalidArgument, match="not a fingerprint"):
        images.of(key)


def test_a_link_is_not_followed(images: NamedImages) -> None:
    """A name that is a link to another namespace's images is refused, also if root made it."""
    foreign = NamedImages(
        images.folder.parents[1], ImageRef(namespace="other", name=images.ref.name)
    )
    sealed(foreign.new_image(ONE, at(1)))
    images.folder.parent.mkdir()
    images.folder.symlink_to(foreign.folder)

    with pytest.raises(PermissionDenied, match="behind a symbolic link"):
        images.find(ONE.key)


def test_a_folder_that_others_can_write_to(images: NamedImages) -> None:
    """Anyone could put an image there."""
    sealed(images.new_image(ONE, at(1)))
    images.folder.chmod(0o777)

    with pytest.raises(PermissionDenied, match="others may write"):
        images.find(ONE.key)
