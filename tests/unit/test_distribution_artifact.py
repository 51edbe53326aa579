"""OCI artifacts: what is encoded is decoded as the same, and what is hostile is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from shim.distribution import artifact, media
from shim.distribution.artifact import Artifact, Chunk
from shim.distribution.blob import Descriptor, digest_of
from shim.distribution.place import Document
from shim.errors import ImageCorrupt, NotFound
from shim.image.manifest import ImageFile
from tests.unit.image_helpers import manifest

WHERE = "r.example/a:v1"
MANIFEST = manifest(
    files=(
        ImageFile(name="checkpoint.img", size_bytes=100, blake3="ab" * 32),
        ImageFile(name="pages.img", size_bytes=5000, blake3="cd" * 32),
    )
)


def blob(data: bytes, media_type: str = media.CHUNK) -> Descriptor:
    """Describe a blob."""
    return Descriptor(media_type=media_type, digest=digest_of(data), size=len(data))


def chunk(file: str, offset: int, length: int) -> Chunk:
    """Describe a chunk."""
    return Chunk(file=file, offset=offset, length=length, blob=blob(b"%d" % offset))


GOOD = Artifact(
    config=blob(b"{}", media.CONFIG),
    chunks=(
        chunk("checkpoint.img", 0, 100),
        chunk("pages.img", 0, 1000),
        chunk("pages.img", 4000, 1000),
    ),
    signatures=blob(b"[]", media.SIGNATURES),
    key="{}",
    annotations={"org.criu.checkpoint.engine.name": "cryoshim"},
)


def test_an_artifact_is_decoded_as_it_was_encoded() -> None:
    """The order, the key and what lies beside the files are the same."""
    found = artifact.decode(artifact.encode(GOOD), WHERE)

    assert artifact.encode(found) == artifact.encode(GOOD)
    assert (found.key, found.signatures, found.fingerprint) == ("{}", GOOD.signatures, None)
    assert [(one.file, one.offset, one.length) for one in found.chunks] == [
        (one.file, one.offset, one.length) for one in GOOD.chunks
    ]
    artifact.check_files(found, MANIFEST, WHERE)


def test_manifest_and_index_say_what_they_are() -> None:
    """Both have the annotations that other tools look for, and the type of the artifact."""
    annotations = artifact.annotations_of(MANIFEST, encrypted=False)
    document = artifact.encode(msgspec.structs.replace(GOOD, annotations=annotations))
    index = artifact.wrap(document, annotations)

    assert artifact.manifest_in(index, WHERE).digest == digest_of(document.data)
    for data in (document.data, index.data):
        plain = json.loads(data)
        assert plain["artifactType"] == media.ARTIFACT
        assert plain["annotations"]["org.criu.checkpoint.engine.name"] == "cryoshim"
        assert plain["annotations"]["org.criu.checkpoint.container.name"] == "t1"


def test_an_encrypted_image_names_no_task() -> None:
    """Only the program that made it is named."""
    found = artifact.annotations_of(MANIFEST, encrypted=True)

    assert set(found) == {
        "org.criu.checkpoint.engine.name",
        "org.criu.checkpoint.engine.version",
    }


def _set(layer: int, key: str, value: str) -> Callable[[Any], None]:
    def change(plain: Any) -> None:
        plain["layers"][layer]["annotations"][key] = value

    return change


def _drop(*path: Any) -> Callable[[Any], None]:
    def change(plain: Any) -> None:
        for part in path[:-1]:
            plain = plain[part]
        del plain[path[-1]]

    return change


def _put(value: Any, *path: Any) -> Callable[[Any], None]:
    def change(plain: Any) -> None:
        for part in path[:-1]:
            plain = plain[part]
        plain[path[-1]] = value

    return change


HOSTILE: dict[str, Callable[[Any], None]] = {
    "another name": _set(1, media.FILE, "cryo.json"),
    "a path": _set(1, media.FILE, "../pages.img"),
    "a negative offset": _set(1, media.OFFSET, "-1"),
    "no number": _set(1, media.OFFSET, "x"),
    "no length": _drop("layers", 1, "annotations", media.LENGTH),
    "an empty chunk": _set(1, media.LENGTH, "0"),
    "an overlap": _set(3, media.OFFSET, "999"),
    "a huge offset": _set(3, media.OFFSET, str(1 << 63)),
    "a number of many digits": _set(3, media.OFFSET, "9" * 5000),
    "another layer": _put("application/vnd.oci.image.layer.v1.tar", "layers", 1, "mediaType"),
    "another artifact": _put("application/vnd.example", "artifactType"),
    "another config": _put("application/vnd.oci.image.config.v1+json", "config", "mediaType"),
    "a config of 1 TiB": _put(1 << 40, "config", "size"),
    "a negative size": _put(-1, "layers", 1, "size"),
    "another digest": _put("md5:00", "layers", 1, "digest"),
    "signatures of 1 TiB": _put(1 << 40, "layers", 0, "size"),
    "no layers": _drop("layers"),
    "deep nesting": _put(json.loads("[" * 60 + "]" * 60), "annotations"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_manifest_is_refused(name: str) -> None:
    """The error names where it is from."""
    plain = json.loads(artifact.encode(GOOD).data)
    HOSTILE[name](plain)
    document = Document(media_type=media.MANIFEST, data=json.dumps(plain).encode())

    with pytest.raises(ImageCorrupt, match=WHERE):
        artifact.decode(document, WHERE)


@pytest.mark.parametrize("data", (b"", b"{", b"[]", b"\xff", b"null", b" " * (5 << 20)))
def test_no_manifest_is_refused(data: bytes) -> None:
    """Bytes that are no manifest are an error, also if they are many."""
    with pytest.raises(ImageCorrupt):
        artifact.decode(Document(media_type=media.MANIFEST, data=data), WHERE)


def test_an_index_of_other_images_has_none() -> None:
    """An ordinary container image is not one of ours."""
    plain = json.loads(artifact.wrap(artifact.encode(GOOD), {}).data)
    del plain["manifests"][0]["artifactType"]

    with pytest.raises(NotFound, match="no checkpoint image"):
        artifact.manifest_in(
            Document(media_type=media.INDEX, data=json.dumps(plain).encode()), WHERE
        )


@pytest.mark.parametrize(
    "files",
    (
        (ImageFile(name="checkpoint.img", size_bytes=100, blake3="ab" * 32),),
        (
            ImageFile(name="checkpoint.img", size_bytes=99, blake3="ab" * 32),
            ImageFile(name="pages.img", size_bytes=5000, blake3="ab" * 32),
        ),
        (
            *MANIFEST.files,
            ImageFile(name="config.json", size_bytes=1, blake3="ab" * 32),
        ),
    ),
)
def test_chunks_of_other_files_are_refused(files: tuple[ImageFile, ...]) -> None:
    """Each chunk is a part of a file of cryo.json, and each file one of runsc's."""
    with pytest.raises(ImageCorrupt):
        artifact.check_files(GOOD, msgspec.structs.replace(MANIFEST, files=files), WHERE)


def test_an_image_that_is_not_sealed_is_refused() -> None:
    """Without digests its content could not be checked."""
    with pytest.raises(ImageCorrupt, match="not sealed"):
        artifact.check_files(GOOD, msgspec.structs.replace(MANIFEST, sealed=False), WHERE)
