"""500 damaged images and layouts, each refused; and what is harmless is accepted."""

from __future__ import annotations

import json
import os
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from shim.config import Trust
from shim.distribution.blob import Descriptor
from shim.distribution.compress import Compress
from shim.distribution.layout import Layout
from shim.distribution.pull import pull
from shim.distribution.push import push
from shim.distribution.transfer import Offer, PullOptions, PullTarget, PushOptions
from shim.errors import (
    HostMismatch,
    ImageCorrupt,
    InvalidArgument,
    NotFound,
    PermissionDenied,
)
from shim.image import keys, labels, signature, trust
from shim.image.labels import Labels
from shim.image.side_files import CHUNKS, SIGNATURES
from shim.image.trust import Action
from shim.image.verify import HeldImage
from shim.image.verify_cache import NoCache
from shim.model import Progress, Verify
from tests.damage import OF_IMAGES, OF_LAYOUTS, Forged
from tests.unit.image_helpers import fill, manifest, seal_at

# InvalidArgument: what should be a file or a folder is something else.
REFUSALS = (ImageCorrupt, NotFound, PermissionDenied, HostMismatch, InvalidArgument)
BLOCK = 256 << 10
TAG = "v1"
IMAGES, LAYOUTS, CHANGING = 280, 200, 20


def quiet(_progress: Progress) -> None:
    """Take no notice."""


class Signed:
    """A signed image, its layouts, and a host that requires the signature."""

    def __init__(self, root: Path) -> None:
        self.image = fill(root / "image")
        rng = random.Random(1)
        parts = (rng.randbytes(BLOCK), bytes(BLOCK), rng.randbytes(BLOCK), bytes(BLOCK), b"end")
        (self.image / "pages.img").write_bytes(b"".join(parts))
        (self.image / "pages_meta.img").write_bytes(rng.randbytes(3000))
        seal_at(self.image, manifest())
        keys.generate(root / "key")
        secret = keys.read_private(root / "key")
        payload = signature.image_statement(self.image)
        signature.add(self.image, secret.public, secret.sign(signature.to_sign(payload)))
        self.trust = Trust(keys=(str(root / "key.pub"),), restore="signed")
        self.layouts = [self._pushed(root / how, how) for how in ("never", "always")]

    def _pushed(self, layout: Path, how: str) -> Path:
        options = PushOptions(compress=Compress(how))
        push(self.image, Layout(layout), TAG, options, quiet)
        return layout

    def check(self, image: Path, report: Callable[[Progress], None] = quiet) -> None:
        """Check an image as a restore does, before it makes a sandbox."""
        held = HeldImage(image)
        try:
            held.verify(Verify.FULL, NoCache(), report)
            trust.check_folder(self.trust, Action.RESTORE, held.folder)
            held.check_unchanged()
        finally:
            held.close()

    def pull(self, place: Layout, images: Path) -> Path:
        """Pull as the sidecar does."""

        def admit(offer: Offer) -> None:
            trust.check_offered(
                self.trust,
                Action.PULL,
                offer.manifest,
                offer.config,
                offer.signatures,
                offer.where,
            )

        target = PullTarget(path_for=lambda _offer: images / "new", images=images, admit=admit)
        pull(place, "oci:layout", TAG, target, PullOptions(), quiet)
        return images / "new"


@pytest.fixture(scope="module")
def signed(tmp_path_factory: pytest.TempPathFactory) -> Signed:
    """Give one for all tests, which copy what they damage."""
    return Signed(tmp_path_factory.mktemp("signed"))


@pytest.mark.parametrize("batch", range(14))
def test_no_damaged_image_is_accepted(signed: Signed, tmp_path: Path, batch: int) -> None:
    """Accidents, and forgeries with all digests right; by a typed error each."""
    for seed in range(batch * IMAGES // 14, (batch + 1) * IMAGES // 14):
        rng, image = random.Random(seed), tmp_path / str(seed) / "image"
        shutil.copytree(signed.image, image)
        signed.check(image)
        damage = rng.choice(OF_IMAGES)
        damage(rng, image)

        try:
            with pytest.raises(REFUSALS):
                signed.check(image)
        except BaseException as error:
            error.add_note(f"seed {seed}: {damage.__name__}")
            raise
        shutil.rmtree(image.parent)


@pytest.mark.parametrize("batch", range(10))
def test_nothing_is_made_of_a_damaged_layout(signed: Signed, tmp_path: Path, batch: int) -> None:
    """No image has its name, and nothing is written beside the folder of the images."""
    for seed in range(batch * LAYOUTS // 10, (batch + 1) * LAYOUTS // 10):
        rng, root = random.Random(seed), tmp_path / str(seed)
        layout = root / "in" / "layout"
        shutil.copytree(rng.choice(signed.layouts), layout)
        (root / "images").mkdir(mode=0o700)
        damage = rng.choice(OF_LAYOUTS)
        damage(rng, layout)
        before = sorted(root.rglob("*"))

        try:
            with pytest.raises(REFUSALS):
                signed.pull(Layout(layout), root / "images")
            new = [path for path in sorted(root.rglob("*")) if path not in before]
            assert [path for path in new if root / "images" not in path.parents] == []
            assert not (root / "images" / "new").exists()
        except BaseException as error:
            error.add_note(f"seed {seed}: {damage.__name__}")
            raise
        shutil.rmtree(root)


def test_a_pull_brings_signatures_for_an_image_that_is_there(
    signed: Signed, tmp_path: Path
) -> None:
    """An image that was signed after it was pulled need not be removed and pulled again."""
    (tmp_path / "images").mkdir(mode=0o700)
    image = signed.pull(Layout(signed.layouts[0]), tmp_path / "images")
    (image / SIGNATURES).unlink()

    signed.pull(Layout(signed.layouts[0]), tmp_path / "images")

    signed.check(image)


class Changing(Layout):
    """A layout of which a blob changes while it is read, or whose own checks are left out."""

    def __init__(self, path: Path, seed: int) -> None:
        super().__init__(path)
        chunks = sorted(one["digest"] for one in Forged(path).chunks)
        self._rng = random.Random(seed)
        self._chosen = self._rng.choice(chunks)

    def get_blob(self, descriptor: Descriptor) -> Iterator[bytes]:
        """Change a piece of the chosen blob after it was compared with its digest."""
        for piece in super().get_blob(descriptor):
            if descriptor.digest == self._chosen:
                data = bytearray(piece)
                data[self._rng.randrange(len(data))] ^= 1 << self._rng.randrange(8)
                yield bytes(data)
            else:
                yield piece


@pytest.mark.parametrize("seed", range(CHANGING // 2))
def test_a_blob_that_changes_while_it_is_read_is_found(
    signed: Signed, tmp_path: Path, seed: int
) -> None:
    """The files are hashed as they are on the disk, whatever the place has said of its blobs."""
    shutil.copytree(signed.layouts[0], tmp_path / "layout")
    (tmp_path / "images").mkdir(mode=0o700)

    with pytest.raises(ImageCorrupt):
        signed.pull(Changing(tmp_path / "layout", seed), tmp_path / "images")
    assert not (tmp_path / "images" / "new").exists()


@pytest.mark.parametrize("seed", range(CHANGING // 2))
def test_an_image_that_changes_while_it_is_verified_is_found(
    signed: Signed, tmp_path: Path, seed: int
) -> None:
    """Also if the change comes after its bytes were hashed."""
    rng, image = random.Random(seed), tmp_path / "image"
    shutil.copytree(signed.image, image)
    path = image / rng.choice(("pages.img", "checkpoint.img", "pages_meta.img"))
    calls = rng.randrange(3)

    def change(_progress: Progress) -> None:
        nonlocal calls
        calls -= 1
        if calls < 0:
            data = path.read_bytes()
            path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))

    with pytest.raises(ImageCorrupt):
        signed.check(image, change)


def test_what_is_harmless_is_accepted(signed: Signed, tmp_path: Path) -> None:
    """Copies, other times and modes, labels; in a layout what no image refers to."""
    image, layout = tmp_path / "moved", tmp_path / "layout"
    shutil.copytree(signed.image, image)
    shutil.copytree(signed.layouts[1], layout)
    (tmp_path / "images").mkdir(mode=0o700)
    labels.write(image, Labels(source="x"))
    (image / CHUNKS).write_bytes(b"\xff")
    os.utime(image / "pages.img", (1, 1))
    (image / "pages.img").chmod(0o400)
    beside = Forged(layout)
    beside.wrap["manifests"].insert(0, dict(beside.manifest["config"]))
    beside.write()
    index = json.loads((layout / "index.json").read_bytes())
    more = {"mediaType": "text/plain", "digest": "sha256:" + "1" * 64, "size": 3}
    index["manifests"].append(more)
    (layout / "index.json").write_text(json.dumps(index, indent=3))
    (layout / "blobs" / "sha256" / ("1" * 64)).write_bytes(b"x")

    signed.check(image)
    signed.check(signed.pull(Layout(layout), tmp_path / "images"))


def test_every_kind_of_damage_occurs() -> None:
    """In the seeds above, and all of them are 500."""
    of_images = {random.Random(seed).choice(OF_IMAGES) for seed in range(IMAGES)}
    found: set[Any] = set()
    for seed in range(LAYOUTS):
        rng = random.Random(seed)
        rng.choice((0, 1))
        found.add(rng.choice(OF_LAYOUTS))

    assert (of_images, found) == (set(OF_IMAGES), set(OF_LAYOUTS))
    assert IMAGES + LAYOUTS + CHANGING == 500
