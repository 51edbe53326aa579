"""Reads what an image elsewhere is, before any of its files is fetched."""

from __future__ import annotations

from shim.distribution import artifact, keys, media
from shim.distribution.artifact import Artifact, corrupt
from shim.distribution.blob import Descriptor, digest_of
from shim.distribution.place import Document, Place
from shim.distribution.transfer import Cipher, Offer, PullOptions
from shim.errors import ResourceExhausted
from shim.image import manifest as manifests
from shim.model import Value

# What encryption adds at most, and the largest chunk that is decrypted, which is done in memory.
_OVERHEAD_BYTES = 64 << 10
_MAX_IN_MEMORY_BYTES = 1 << 30


class Remote(Value):
    """An image elsewhere: what it is, where its bytes are, and its cipher if it is encrypted."""

    offer: Offer
    artifact: Artifact
    cipher: Cipher | None = None


def read(place: Place, where: str, tag_or_digest: str, options: PullOptions) -> Remote:
    """Read what has a tag or digest; `where` is its reference, for messages.

    Raises:
        NotFound: nothing has it.
        ImageCorrupt: it is damaged, or its parts do not match.
        PermissionDenied: it is encrypted, and the key is missing or another one.
        ResourceExhausted: it is larger than the options allow.
    """
    index = place.get_document(tag_or_digest)
    digest = digest_of(index.data)
    document = index
    if index.media_type != media.MANIFEST:
        document = _document(place, artifact.manifest_in(index, where), where)
    found = artifact.decode(document, where)
    cipher = _cipher(found, options, where)
    config = read_blob(place, found.config, cipher, where)
    manifest = manifests.decode(config, where)
    artifact.check_files(found, manifest, where)
    _check_sizes(found, where)
    if manifest.size_bytes > options.max_bytes:
        message = (
            f"{where} has {manifest.size_bytes} bytes, more than the {options.max_bytes} allowed"
        )
        raise ResourceExhausted(message, remedy="raise the limit if you trust it")
    offer = Offer(
        where=where,
        digest=digest,
        manifest=manifest,
        config=config,
        signatures=_side(place, found.signatures, cipher, where),
        fingerprint=_side(place, found.fingerprint, cipher, where),
        encrypted=cipher is not None,
    )
    return Remote(offer=offer, artifact=found, cipher=cipher)


def read_blob(place: Place, blob: Descriptor, cipher: Cipher | None, where: str) -> bytes:
    """Return a small blob, decrypted if it is encrypted."""
    data = b"".join(place.get_blob(blob))
    if not blob.media_type.endswith(media.ENCRYPTED):
        return data
    if cipher is None:
        raise corrupt(where, "a part of it is encrypted, and the image does not say how")
    return cipher.decrypt(data, blob.media_type, where)


def _side(place: Place, blob: Descriptor | None, cipher: Cipher | None, where: str) -> bytes | None:
    return read_blob(place, blob, cipher, where) if blob is not None else None


def _document(place: Place, descriptor: Descriptor, where: str) -> Document:
    document = place.get_document(descriptor.digest)
    if artifact.describe(document).digest != descriptor.digest:
        raise corrupt(where, "the place returned another manifest than was asked for")
    return document


def _cipher(found: Artifact, options: PullOptions, where: str) -> Cipher | None:
    """Return the cipher of an encrypted image.

    Raises:
        InvalidArgument: the key is missing, or is not valid.
        PermissionDenied: it is another one, or the image is not encrypted although there is one.
        ImageCorrupt: only a part of it is encrypted.
    """
    encrypted = {blob.media_type.endswith(media.ENCRYPTED) for blob in found.blobs}
    if encrypted != {found.key is not None}:
        raise corrupt(where, "only a part of it is encrypted")
    return keys.unwrap(found.key, options.keys, where)


def _check_sizes(found: Artifact, where: str) -> None:
    """Check that no blob is larger than its part of a file allows.

    Raises:
        ImageCorrupt: one is.
    """
    for chunk in found.chunks:
        kind = chunk.blob.media_type
        in_memory = kind.endswith(media.ENCRYPTED)
        if kind == media.CHUNK:
            fits = chunk.blob.size == chunk.length
        else:
            fits = chunk.blob.size <= chunk.length + _OVERHEAD_BYTES
        if not fits or (in_memory and chunk.length > _MAX_IN_MEMORY_BYTES):
            raise corrupt(where, "a layer has another size than its part of the file")
