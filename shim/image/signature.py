"""Signatures of an image: a DSSE envelope over its manifest, in a side file of its folder.

The payload is canonical JSON that only depends on cryo.json, so all who sign an image sign the same
bytes: one envelope has all signatures. cryo.json has the digest of each file of the image.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec

from shim.errors import ImageCorrupt, InvalidArgument
from shim.host.files import write_atomic
from shim.image import in_use
from shim.image.directory import ImageDir, begin_image_dir
from shim.image.manifest import NAME, Manifest
from shim.image.side_files import SIGNATURES
from shim.image.verify import decode_manifest, read_file
from shim.model import Value
from shim.oci import canonical, untrusted_json

if TYPE_CHECKING:
    from shim.image.keys import PublicKey

PAYLOAD_TYPE = "application/vnd.cryoshim.checkpoint.statement.v1+json"
MAX_BYTES = 256 << 10
_MAX_SIGNATURES = 64
_REMEDY = f"remove {SIGNATURES} from the image's folder and sign it again, or get it again"


class Signature(Value, rename={"key_id": "keyid", "value": "sig"}):
    """One signature, and the id of its key: the SHA-256 of the public key in DER."""

    value: Annotated[bytes, msgspec.Meta(max_length=256)]
    key_id: Annotated[str, msgspec.Meta(max_length=256)] = ""


class Envelope(Value, rename="camel"):
    """A DSSE envelope."""

    payload: Annotated[bytes, msgspec.Meta(max_length=64 << 10)]
    payload_type: Annotated[str, msgspec.Meta(max_length=256)]
    signatures: Annotated[tuple[Signature, ...], msgspec.Meta(max_length=_MAX_SIGNATURES)]

    def signers(self, keys: Iterable[PublicKey]) -> tuple[PublicKey, ...]:
        """Return those of the keys by which it is signed."""
        signed = encoded(self.payload_type, self.payload)
        return tuple(
            key for key in keys if any(key.accepts(one.value, signed) for one in self.signatures)
        )


def statement(manifest: Manifest, data: bytes) -> bytes:
    """Return what is signed for an image, given its manifest as it is and as bytes.

    Raises:
        InvalidArgument: the image is not sealed, so nothing would protect its files.
    """
    if not manifest.sealed:
        message = f"the image of task {manifest.task} is not sealed: it has no digests to sign"
        raise InvalidArgument(message, remedy="make a sealed image: checkpoint without --no-seal")
    return canonical.encode(
        {
            "created_at": manifest.created_at.isoformat(),
            "manifest": {"blake3": manifest.digest, "sha256": hashlib.sha256(data).hexdigest()},
            "task": manifest.task,
        }
    )


def encoded(payload_type: str, payload: bytes) -> bytes:
    """Return the bytes to sign: DSSE's pre-authentication encoding."""
    kind = payload_type.encode("utf-8")
    return b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(payload), payload)


def to_sign(payload: bytes) -> bytes:
    """Return the bytes to sign for a statement."""
    return encoded(PAYLOAD_TYPE, payload)


def read_envelope(data: bytes | None, where: str) -> Envelope | None:
    """Decode an envelope; None if there is none.

    Raises:
        ImageCorrupt: it is damaged.
    """
    if data is None:
        return None
    if len(data) > MAX_BYTES:
        raise _corrupt(where, "it is too large")
    try:
        untrusted_json.check_shape(data)
        return msgspec.json.decode(data, type=Envelope)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise _corrupt(where, str(error)) from error


def signers(
    manifest: Manifest, data: bytes, envelope: bytes | None, keys: Iterable[PublicKey], where: str
) -> tuple[PublicKey, ...]:
    """Return those of the keys that have signed an image, given cryo.json and its signatures.

    Raises:
        ImageCorrupt: the signatures are damaged, or of another image.
    """
    found = read_envelope(envelope, where)
    if found is None or not manifest.sealed:
        return ()
    _check_payload(found, statement(manifest, data), where)
    return found.signers(keys)


def read_side(folder: ImageDir) -> bytes | None:
    """Return the bytes of the signatures beside an image; None if there are none.

    Raises:
        ImageCorrupt: they are in something that is not a regular file, or too large.
    """
    if not os.path.lexists(f"/proc/self/fd/{folder.fd}/{SIGNATURES}"):
        return None
    return read_file(folder, SIGNATURES, MAX_BYTES)


def image_signers(folder: ImageDir, keys: Iterable[PublicKey]) -> tuple[PublicKey, ...]:
    """Return those of the keys that have signed the image in an open folder.

    Raises:
        ImageCorrupt: its manifest or its signatures are damaged.
    """
    manifest, data = decode_manifest(folder)
    return signers(manifest, data, read_side(folder), keys, str(folder.path))


def image_statement(image: Path) -> bytes:
    """Return what is signed for the image at a path.

    Raises:
        NotFound, ImageCorrupt, PermissionDenied: it cannot be read, or changed by another user.
        InvalidArgument: it is not sealed.
    """
    folder = begin_image_dir(image, strict=True)
    try:
        return statement(*decode_manifest(folder))
    finally:
        os.close(folder.fd)


def add(image: Path, key: PublicKey, signature: bytes) -> int:
    """Add a signature to the image at a path; return how many it has.

    A key that has signed it before replaces its signature.

    Raises:
        InvalidArgument: it is not a signature of this image by this key.
        ImageCorrupt: the signatures that it has are damaged, or of another image.
        Busy: another process removes the image.
    """
    folder = begin_image_dir(image, strict=True)
    try:
        in_use.keep(folder)
        payload = statement(*decode_manifest(folder))
        if not key.accepts(signature, to_sign(payload)):
            message = f"this is no signature of the image {image} by {key}"
            raise InvalidArgument(message, remedy="sign it with `cryo checkpoints sign`")
        found = read_envelope(read_side(folder), str(image))
        if found is not None:
            _check_payload(found, payload, str(image))
        others = found.signatures if found is not None else ()
        kept = tuple(one for one in others if one.key_id != key.id)
        if len(kept) >= _MAX_SIGNATURES:
            message = f"image {image} has {len(kept)} signatures, and cannot have more"
            raise InvalidArgument(message, remedy=f"remove {SIGNATURES} from its folder first")
        signatures = (*kept, Signature(value=signature, key_id=key.id))
        _store(folder, payload, signatures)
        return len(signatures)
    finally:
        os.close(folder.fd)


def add_all(image: Path, data: bytes) -> None:
    """Add the signatures of another copy of an image to those of the image at a path.

    They are not checked: who requires a signature does that.

    Raises:
        ImageCorrupt: they, or those that it has, are damaged or of another image.
    """
    folder = begin_image_dir(image, strict=True)
    try:
        in_use.keep(folder)
        payload = statement(*decode_manifest(folder))
        found = [read_envelope(one, str(image)) for one in (read_side(folder), data)]
        envelopes = [one for one in found if one is not None]
        for one in envelopes:
            _check_payload(one, payload, str(image))
        old = envelopes[0].signatures if len(envelopes) > 1 else ()
        all_of_them = dict.fromkeys(one for each in envelopes for one in each.signatures)
        if tuple(all_of_them) != old:
            _store(folder, payload, tuple(all_of_them)[:_MAX_SIGNATURES])
    finally:
        os.close(folder.fd)


def _store(folder: ImageDir, payload: bytes, signatures: tuple[Signature, ...]) -> None:
    made = Envelope(payload=payload, payload_type=PAYLOAD_TYPE, signatures=signatures)
    write_atomic(Path(f"/proc/self/fd/{folder.fd}", SIGNATURES), msgspec.json.encode(made))


def _check_payload(envelope: Envelope, payload: bytes, where: str) -> None:
    if (envelope.payload_type, envelope.payload) != (PAYLOAD_TYPE, payload):
        raise _corrupt(where, f"they are not of its {NAME}")


def _corrupt(where: str, why: str) -> ImageCorrupt:
    return ImageCorrupt(f"{where}: the signatures in {SIGNATURES}: {why}", remedy=_REMEDY)
