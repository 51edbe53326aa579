"""Encrypted images: nothing of them is in clear, whatever the place has or is changed to."""

from __future__ import annotations

import random
from pathlib import Path

import msgspec
import pytest

from shim.distribution import artifact
from shim.distribution.artifact import Artifact
from shim.distribution.compress import Compress
from shim.distribution.key_sources import KeySources
from shim.distribution.keys import for_push
from shim.distribution.layout import Layout
from shim.distribution.pull import pull
from shim.distribution.push import push
from shim.distribution.transfer import PullOptions, PullTarget, PushOptions
from shim.errors import CryoError, ImageCorrupt, InvalidArgument, PermissionDenied
from shim.image.verify import verify
from shim.image.verify_cache import VerifyCache
from shim.model import Verify
from tests.unit.image_helpers import ProgressLog, fill, manifest, seal_at

MIB = 1 << 20
TAG = "v1"
PLAIN = KeySources()


class Host:
    """Images, keys and a layout in a folder."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.key = self.key_file("key")

    @property
    def layout(self) -> Layout:
        """Return the layout, which is empty at first."""
        return Layout(self.root / "layout")

    def key_file(self, name: str) -> KeySources:
        """Make a key."""
        path = self.root / name
        path.write_text(random.Random(name).randbytes(32).hex())
        path.chmod(0o600)
        return KeySources(key_file=str(path))

    def image(self, name: str, seed: int) -> Path:
        """Make a sealed image whose pages can be compressed."""
        folder = fill(self.root / name)
        letters = random.Random(seed).choices(b"abcdefgh", k=3 * MIB)
        (folder / "pages.img").write_bytes(bytes(letters))
        seal_at(folder, manifest(spec={"process": {"env": ["PASSWORD=hunter2"]}}))
        return folder

    def push(self, image: Path, keys: KeySources, compress: Compress = Compress.ALWAYS) -> None:
        """Push an image."""
        options = PushOptions(cipher=for_push(keys), compress=compress)
        push(image, self.layout, TAG, options, ProgressLog())

    def pull(self, name: str, keys: KeySources) -> None:
        """Pull it, and compare all of it with its manifest."""
        target = PullTarget(path_for=lambda _offer: self.root / name)
        pull(self.layout, "oci:x", TAG, target, PullOptions(keys=keys), ProgressLog())
        verify(self.root / name, Verify.FULL, VerifyCache(self.root / "seen"), ProgressLog())

    def stored(self) -> Artifact:
        """Return the artifact in the layout."""
        inner = artifact.manifest_in(self.layout.get_document(TAG), "x")
        return artifact.decode(self.layout.get_document(inner.digest), "x")

    def store(self, changed: Artifact) -> None:
        """Put another artifact in its place."""
        document = artifact.encode(changed)
        self.layout.put_document(document)
        self.layout.put_document(artifact.wrap(document, changed.annotations), TAG)


@pytest.fixture
def host(tmp_path: Path) -> Host:
    """Give an empty one."""
    return Host(tmp_path)


def test_a_tag_of_an_image_in_clear_can_be_given_to_an_encrypted_one(host: Host) -> None:
    """None of the blobs in clear is used again, also not by what the manifest says they contain."""
    image = host.image("a", 1)
    host.push(image, PLAIN)
    assert any(chunk.content for chunk in host.stored().chunks)

    host.push(image, host.key)

    assert not any(chunk.content for chunk in host.stored().chunks)
    host.pull("b", host.key)
    assert (host.root / "b/pages.img").read_bytes() == (image / "pages.img").read_bytes()


def test_what_is_equal_is_stored_once_for_each_key(host: Host) -> None:
    """Compressed or not."""
    image, other = host.image("a", 1), host.key_file("other")
    for compress in Compress:
        host.push(image, host.key, compress)
        first = {blob.digest for blob in host.stored().blobs}
        host.push(image, host.key, compress)
        again = {blob.digest for blob in host.stored().blobs}
        host.push(image, other, compress)
        with_other = {blob.digest for blob in host.stored().blobs}

        assert first == again
        assert not first & with_other


def test_no_annotation_describes_an_encrypted_image(host: Host) -> None:
    """Neither its task nor the versions of this host."""
    host.push(host.image("a", 1), host.key)

    whole = host.stored()

    assert set(whole.annotations) == {
        "org.criu.checkpoint.engine.name",
        "org.criu.checkpoint.engine.version",
    }


def test_a_wrong_key_is_refused_before_a_blob_is_read(host: Host) -> None:
    """There need be none."""
    host.push(host.image("a", 1), host.key)
    for blob in (host.root / "layout/blobs/sha256").iterdir():
        if blob.stat().st_size > MIB // 4:
            blob.unlink()

    with pytest.raises(PermissionDenied, match="wrong is not the one"):
        host.pull("b", host.key_file("wrong"))
    with pytest.raises(InvalidArgument, match="none is given"):
        host.pull("b", PLAIN)


@pytest.mark.parametrize("part", ("config", "chunks", "key", "type"))
def test_an_exchanged_part_is_refused(host: Host, part: str) -> None:
    """By that of another image with the same key, or without one."""
    host.push(host.image("a", 1), host.key)
    ours = host.stored()
    host.push(host.image("b", 2), host.key if part != "key" else host.key_file("other"))
    others = host.stored()
    if part == "type":
        plain = {blob.digest: blob.media_type.removesuffix("+encrypted") for blob in ours.blobs}
        chunks = tuple(
            msgspec.structs.replace(
                chunk,
                blob=msgspec.structs.replace(chunk.blob, media_type=plain[chunk.blob.digest]),
            )
            for chunk in ours.chunks
        )
        host.store(msgspec.structs.replace(ours, chunks=chunks))
    else:
        host.store(msgspec.structs.replace(ours, **{part: getattr(others, part)}))

    with pytest.raises(CryoError) as caught:
        host.pull("c", host.key)
    assert isinstance(caught.value, ImageCorrupt | PermissionDenied)
    assert not (host.root / "c").exists()
