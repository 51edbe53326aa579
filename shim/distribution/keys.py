"""Data keys: from a key file, or wrapped for age recipients.

What an encrypted image says of its data key, in `Artifact.key`, is a JSON object without a secret:
version, algorithm, kind, a check value, and for age recipients the data key as an age file.

A key file gives the same data key for each push, so that equal chunks are stored once. So does
an identity of the pusher, with the same recipients. A data key is never taken from what the place
has: anyone can encrypt one for a recipient, and would read all that is encrypted with it.
"""

from __future__ import annotations

import base64
import enum
import hmac
import secrets
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import msgspec

from shim.distribution import age, key_files
from shim.distribution.artifact import corrupt
from shim.distribution.cipher import KEY_BYTES, Cipher, check_value, derive
from shim.distribution.key_sources import KeySources
from shim.errors import HostMismatch, InvalidArgument, PermissionDenied
from shim.model import Value
from shim.oci import canonical, untrusted_json

_VERSION = 1
_ALGORITHM = "AES-256-GCM"
# That of an annotation.
_MAX_BYTES = 4096


class _Kind(enum.StrEnum):
    KEY_FILE = "key-file"
    AGE = "age"


class _Wrapped(Value, omit_defaults=True):
    version: int
    algorithm: Annotated[str, msgspec.Meta(max_length=64)]
    kind: _Kind
    check: Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{32}$")]
    age: str = ""


class _Head(Value):
    version: int


def for_push(sources: KeySources) -> Cipher | None:
    """Return the cipher of images that are pushed; None if there is no key and no recipient.

    Raises:
        InvalidArgument: a key or a recipient is not valid, or they do not go together.
        PermissionDenied: other users can read a file with a secret.
    """
    if sources.key_file is not None:
        if sources.recipients or sources.identities:
            message = "an image is encrypted with a key file, or for recipients, but not with both"
            raise InvalidArgument(message, remedy="leave out the one or the other")
        data_key = _of_key_file(sources.key_file)
        return _cipher(data_key, _Kind.KEY_FILE)
    if sources.recipients:
        recipients = age.recipients_in(sources.recipients)
        data_key = _of_identity(sources.identities, recipients)
        return _cipher(data_key, _Kind.AGE, age.encrypt(data_key, recipients))
    if sources.identities:
        message = "there is an identity, but no recipient to encrypt the image for"
        raise InvalidArgument(message, remedy="give the recipient of the identity too")
    return None


def unwrap(key_json: str | None, sources: KeySources, where: str) -> Cipher | None:
    """Return the cipher of an image; None if it is not encrypted and no key is given.

    Raises:
        InvalidArgument: a key is missing, or is not valid.
        PermissionDenied: a key is wrong, or is given for an image that is not encrypted.
        ImageCorrupt: the description of the data key is damaged.
        HostMismatch: it was made by a newer version.
    """
    if key_json is None:
        if sources.key_file is None and not sources.identities:
            return None
        message = f"{where} is not encrypted, although a key is given"
        raise PermissionDenied(message, remedy="leave the key out if you trust it as it is")
    wrapped = _decode(key_json, where)
    data_key = (
        _from_key_file(sources, where)
        if wrapped.kind is _Kind.KEY_FILE
        else _from_age(wrapped.age, sources, where)
    )
    if not hmac.compare_digest(check_value(data_key), wrapped.check):
        given = f"the key in {sources.key_file}" if wrapped.kind is _Kind.KEY_FILE else "its key"
        message = f"{given} is not the one that {where} was encrypted with"
        raise PermissionDenied(message, remedy="use the key file that it was pushed with")
    return Cipher(data_key, key_json)


def _cipher(data_key: bytes, kind: _Kind, wrapped: bytes = b"") -> Cipher:
    plain = _Wrapped(
        version=_VERSION,
        algorithm=_ALGORITHM,
        kind=kind,
        check=check_value(data_key),
        age=base64.b64encode(wrapped).decode(),
    )
    text = canonical.encode(msgspec.to_builtins(plain)).decode()
    if len(text) > _MAX_BYTES:
        message = "there are too many recipients: their keys do not fit into the image's manifest"
        raise InvalidArgument(message, remedy="give fewer, or share one identity among them")
    return Cipher(data_key, text)


def _of_key_file(path: str) -> bytes:
    return derive(key_files.read_key(Path(path)), "key file")


def _of_identity(identities: Sequence[str], recipients: age.Recipients) -> bytes:
    """Return the data key: that of the first identity for these recipients, else a random one.

    Other recipients have another data key, so that one that is left out cannot decrypt what is
    pushed later.
    """
    if not identities:
        return secrets.token_bytes(KEY_BYTES)
    secret = age.secrets_in(identities)[0]
    return derive(secret, "identity", "\n".join(recipients.names).encode())


def _from_key_file(sources: KeySources, where: str) -> bytes:
    if sources.key_file is None:
        message = f"{where} is encrypted with a key file, and none is given"
        raise InvalidArgument(message, remedy="give the key file that it was pushed with")
    return _of_key_file(sources.key_file)


def _from_age(text: str, sources: KeySources, where: str) -> bytes:
    if not sources.identities:
        message = f"{where} is encrypted for age recipients, and no identity is given"
        raise InvalidArgument(message, remedy="give the identity file of one of them")
    try:
        wrapped = base64.b64decode(text, validate=True)
    except ValueError as error:
        raise corrupt(where, "its data key is not base64") from error
    data_key = age.decrypt(wrapped, sources.identities, where)
    if len(data_key) != KEY_BYTES:
        raise corrupt(where, f"its data key has {len(data_key)} bytes")
    return data_key


def _decode(key_json: str, where: str) -> _Wrapped:
    data = key_json.encode()
    if len(data) > _MAX_BYTES:
        raise corrupt(where, "the description of its data key is too large")
    try:
        untrusted_json.check_shape(data)
        version = msgspec.json.decode(data, type=_Head).version
        wrapped = msgspec.json.decode(data, type=_Wrapped) if version == _VERSION else None
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise corrupt(where, f"the description of its data key: {error}") from error
    if wrapped is None or wrapped.algorithm != _ALGORITHM:
        message = f"{where} is encrypted in a way that this cryo cannot decrypt"
        raise HostMismatch(message, remedy="use the cryo that pushed it, or a newer one")
    return wrapped
