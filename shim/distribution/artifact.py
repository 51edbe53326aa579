"""An image as an OCI artifact: a manifest with a layer for each chunk, in an index. Pure.

The config is cryo.json as it is. A file of the image is cut into chunks; what no chunk covers is
zeros. A decoded artifact comes from anywhere: every value is bounded before it is used.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import pairwise
from typing import Annotated, TypeVar

import msgspec

from shim import __version__
from shim.distribution import media
from shim.distribution.blob import Descriptor, Texts, digest_of, is_digest
from shim.distribution.place import Document
from shim.errors import ImageCorrupt, NotFound
from shim.image.manifest import MAX_MANIFEST_BYTES, Manifest
from shim.model import Value
from shim.oci import canonical, pod, untrusted_json

# Registries limit a manifest to 4 MiB, and some the number of layers to about 4,000.
MAX_DOCUMENT_BYTES = 4 << 20
MAX_LAYERS = 8192
MAX_SIDE_BYTES = 8 << 20
# The files that runsc writes; nothing else is made from an artifact.
FILES = frozenset({"checkpoint.img", "pages.img", "pages_meta.img"})
_REMEDY = "pull an image that `cryo checkpoints push` stored, from a place that you trust"
_EMPTY: dict[str, str] = {}
_Kind = TypeVar("_Kind", bound=Value)


class Chunk(Value):
    """A part of a file of the image: `length` bytes at `offset`, and the blob that has them.

    `content` is their digest, if it is known and not that of the blob.
    """

    file: str
    offset: int
    length: int
    blob: Descriptor
    content: str | None = None

    @property
    def end(self) -> int:
        """Return the offset of the first byte after it."""
        return self.offset + self.length

    @property
    def digest(self) -> str | None:
        """Return the digest of the bytes in the file; None if that is not known."""
        return self.blob.digest if self.blob.media_type == media.CHUNK else self.content


class Artifact(Value):
    """An image as it is stored elsewhere.

    `signatures` and `fingerprint` are what lies beside the files of the image; `key` is how the
    data key is wrapped, as JSON, None for an image that is not encrypted.
    """

    config: Descriptor
    chunks: tuple[Chunk, ...]
    signatures: Descriptor | None = None
    fingerprint: Descriptor | None = None
    key: str | None = None
    annotations: dict[str, str] = {}

    @property
    def blobs(self) -> tuple[Descriptor, ...]:
        """List its blobs, each once, the config first."""
        side = (self.signatures, self.fingerprint)
        all_of_it = (self.config, *filter(None, side), *(chunk.blob for chunk in self.chunks))
        return tuple({blob.digest: blob for blob in all_of_it}.values())


class _Manifest(Value, rename="camel"):
    schema_version: int
    config: Descriptor
    layers: Annotated[tuple[Descriptor, ...], msgspec.Meta(max_length=MAX_LAYERS)]
    artifact_type: Annotated[str, msgspec.Meta(max_length=255)] = ""
    annotations: Texts = {}


class _Index(Value, rename="camel"):
    schema_version: int
    manifests: Annotated[tuple[Descriptor, ...], msgspec.Meta(max_length=4096)]
    annotations: Texts = {}


def annotations_of(manifest: Manifest, *, encrypted: bool) -> dict[str, str]:
    """Return the annotations of an image; those of an encrypted one describe only this program."""
    found = {"engine.name": "cryoshim", "engine.version": __version__}
    if not encrypted:
        found |= {
            "container.name": manifest.task,
            "runtime.name": "runsc",
            "runtime.version": manifest.runsc.version,
            "host.arch": manifest.arch,
            "host.kernel": manifest.kernel,
            **_pod(manifest.spec.get("annotations") or _EMPTY),
        }
    return {media.CRIU + name: text for name, text in found.items() if text}


def _pod(annotations: Mapping[str, str]) -> dict[str, str]:
    names = {
        "pod.name": pod.SANDBOX_NAME,
        "pod.namespace": pod.SANDBOX_NAMESPACE,
        "pod.uid": pod.SANDBOX_UID,
    }
    return {name: annotations.get(key, "") for name, key in names.items()}


def encode(artifact: Artifact) -> Document:
    """Return the OCI manifest of an artifact."""
    side = [blob for blob in (artifact.signatures, artifact.fingerprint) if blob is not None]
    layers = [*side, *map(_layer, artifact.chunks)]
    annotations = dict(artifact.annotations)
    if artifact.key is not None:
        annotations[media.KEY] = artifact.key
    plain = {
        "schemaVersion": 2,
        "mediaType": media.MANIFEST,
        "artifactType": media.ARTIFACT,
        "config": _plain(artifact.config),
        "layers": [_plain(layer) for layer in layers],
        "annotations": annotations,
    }
    return Document(media_type=media.MANIFEST, data=canonical.encode(plain))


def describe(document: Document, annotations: Mapping[str, str] = _EMPTY) -> Descriptor:
    """Return the descriptor of a document."""
    return Descriptor(
        media_type=document.media_type,
        digest=digest_of(document.data),
        size=len(document.data),
        annotations=dict(annotations),
        artifact_type=media.ARTIFACT if document.media_type == media.MANIFEST else None,
    )


def wrap(manifest: Document, annotations: Mapping[str, str]) -> Document:
    """Return the index of one manifest, which is what a tag refers to."""
    plain = {
        "schemaVersion": 2,
        "mediaType": media.INDEX,
        "artifactType": media.ARTIFACT,
        "manifests": [_plain(describe(manifest, annotations))],
        "annotations": dict(annotations),
    }
    return Document(media_type=media.INDEX, data=canonical.encode(plain))


def manifest_in(index: Document, where: str) -> Descriptor:
    """Return the descriptor of the image's manifest in an index.

    Raises:
        ImageCorrupt: the index is damaged.
        NotFound: it has no image of this kind, or several.
    """
    found = _decode(index, _Index, where).manifests
    ours = [one for one in found if one.artifact_type == media.ARTIFACT]
    if len(ours) != 1:
        number = "several checkpoint images" if ours else "no checkpoint image"
        message = f"{where} has {number}"
        raise NotFound(message, remedy="use a tag that `cryo checkpoints push` made")
    if ours[0].size > MAX_DOCUMENT_BYTES:
        raise corrupt(where, "its manifest is too large")
    return ours[0]


def decode(document: Document, where: str) -> Artifact:
    """Decode an OCI manifest; `where` is what it was read from, for messages.

    Raises:
        ImageCorrupt: it is damaged, or not of an image.
    """
    found = _decode(document, _Manifest, where)
    config = found.config.media_type.removesuffix(media.ENCRYPTED)
    if (found.artifact_type, config) != (media.ARTIFACT, media.CONFIG):
        raise corrupt(where, "it is not a checkpoint image")
    # Encryption adds a few bytes.
    if found.config.size > MAX_MANIFEST_BYTES + 1024:
        raise corrupt(where, "its config is too large")
    side: dict[str, Descriptor] = {}
    chunks: list[Chunk] = []
    for layer in found.layers:
        kind = layer.media_type.removesuffix(media.ENCRYPTED)
        if kind in {media.SIGNATURES, media.FINGERPRINT}:
            if kind in side or layer.size > MAX_SIDE_BYTES:
                raise corrupt(where, "what lies beside its files is too large, or twice there")
            side[kind] = layer
        else:
            chunks.append(_chunk(layer, where))
    annotations = dict(found.annotations)
    key = annotations.pop(media.KEY, None)
    _check_order(chunks, where)
    return Artifact(
        config=found.config,
        chunks=tuple(chunks),
        signatures=side.get(media.SIGNATURES),
        fingerprint=side.get(media.FINGERPRINT),
        key=key,
        annotations=annotations,
    )


def check_files(artifact: Artifact, manifest: Manifest, where: str) -> None:
    """Check that the chunks are parts of the files of an image's own manifest.

    Raises:
        ImageCorrupt: they are not, or the image has a file that runsc does not write.
    """
    sizes = {file.name: file.size_bytes for file in manifest.files}
    if not manifest.sealed:
        raise corrupt(where, "it is not sealed: its content could not be checked")
    if odd := sorted(sizes.keys() - FILES):
        raise corrupt(where, f"it has the file {odd[0]!r}, which is not one of runsc's")
    for chunk in artifact.chunks:
        if chunk.file not in sizes or chunk.end > sizes[chunk.file]:
            raise corrupt(where, f"a chunk is not a part of {chunk.file!r}")


def _layer(chunk: Chunk) -> Descriptor:
    annotations = {
        media.FILE: chunk.file,
        media.OFFSET: str(chunk.offset),
        media.LENGTH: str(chunk.length),
    }
    # Of an encrypted one it would say what it contains.
    if chunk.content is not None and chunk.blob.media_type == media.CHUNK + media.ZSTD:
        annotations[media.CONTENT] = chunk.content
    return msgspec.structs.replace(chunk.blob, annotations=annotations)


def _plain(descriptor: Descriptor) -> dict[str, object]:
    found: dict[str, object] = msgspec.to_builtins(descriptor)
    return {name: value for name, value in found.items() if value not in ({}, None)}


def _decode(document: Document, kind: type[_Kind], where: str) -> _Kind:
    if len(document.data) > MAX_DOCUMENT_BYTES:
        raise corrupt(where, "its manifest is too large")
    try:
        untrusted_json.check_shape(document.data)
        return msgspec.json.decode(document.data, type=kind)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise corrupt(where, str(error)) from error


def _chunk(layer: Descriptor, where: str) -> Chunk:
    kind = layer.media_type.removesuffix(media.ENCRYPTED).removesuffix(media.ZSTD)
    if kind != media.CHUNK:
        raise corrupt(where, f"it has a layer of type {layer.media_type[:100]!r}")
    try:
        file = layer.annotations[media.FILE]
        offset, length = (int(layer.annotations[key]) for key in (media.OFFSET, media.LENGTH))
    except (KeyError, ValueError) as error:
        raise corrupt(where, "a layer does not say which part of which file it is") from error
    if file not in FILES:
        raise corrupt(where, f"it has the file {file[:100]!r}, which is not one of runsc's")
    if offset < 0 or length <= 0 or offset + length >= 1 << 63:
        raise corrupt(where, "a layer has an impossible place in its file")
    content = layer.annotations.get(media.CONTENT)
    if content is not None and not is_digest(content):
        raise corrupt(where, "a layer has an impossible digest of its content")
    return Chunk(file=file, offset=offset, length=length, blob=layer, content=content)


def _check_order(chunks: Iterable[Chunk], where: str) -> None:
    ordered = sorted(chunks, key=lambda chunk: (chunk.file, chunk.offset))
    for one, other in pairwise(ordered):
        if one.file == other.file and one.end > other.offset:
            raise corrupt(where, f"two layers are the same part of {one.file}")


def corrupt(where: str, why: str) -> ImageCorrupt:
    """Return the error of an image elsewhere that is damaged."""
    return ImageCorrupt(f"{where}: {why}", remedy=_REMEDY)
