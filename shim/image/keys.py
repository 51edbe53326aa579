"""Ed25519 keys of signatures, in PEM files as OpenSSL writes them.

It loads `cryptography`, so it is itself imported where a key is used, and not before.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Sequence
from pathlib import Path

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import (
    Ed25519PrivateKey,
    Ed25519PublicKey,
)

from shim.errors import InvalidArgument, PermissionDenied
from shim.host import files, trusted
from shim.host.oserror import typed
from shim.model import Value

PUBLIC_SUFFIX = ".pub"
_MAX_BYTES = 16 << 10
_OTHERS_READ = stat.S_IRGRP | stat.S_IROTH
_MAKE_REMEDY = "make a pair with `cryo checkpoints keygen FILE`"


class PublicKey(Value):
    """A public key; `name` is the file that it was read from, for messages."""

    name: str
    pem: str
    id: str

    def accepts(self, signature: bytes, message: bytes) -> bool:
        """Whether a signature of a message was made by its private key."""
        try:
            _decode(self.pem, self.name).verify(signature, message)
        except InvalidSignature:
            return False
        return True

    def __str__(self) -> str:
        """Return the form used in messages."""
        return f"{self.name} (id {self.id[:16]})"


class PrivateKey:
    """A private key. It is never logged, and has no other form than its file."""

    def __init__(self, key: Ed25519PrivateKey, public: PublicKey) -> None:
        self._key = key
        self.public = public

    def sign(self, message: bytes) -> bytes:
        """Return the signature of a message."""
        return self._key.sign(message)


def generate(path: Path) -> PublicKey:
    """Write a new private key, readable by its owner only, and beside it the public one.

    Raises:
        AlreadyExists: one of the files exists.
    """
    key = Ed25519PrivateKey.generate()
    secret = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    public = _public_of(key, str(path))
    beside = path.with_name(path.name + PUBLIC_SUFFIX)
    _create(path, secret, 0o600)
    try:
        _create(beside, public.pem.encode("ascii"), 0o644)
    except BaseException:
        path.unlink()
        raise
    return parse_public(public.pem, str(beside))


def read_private(path: Path) -> PrivateKey:
    """Read a private key.

    Raises:
        NotFound: there is no such file.
        InvalidArgument: it has no private Ed25519 key, or one with a passphrase.
        PermissionDenied: other users can read it.
    """
    data = files.read_bounded(path, _MAX_BYTES, nofollow=False)
    try:
        mode = path.stat().st_mode
    except OSError as error:
        raise typed(error, f"look at {path}") from error
    if mode & _OTHERS_READ:
        message = f"other users can read the private key {path} (mode {stat.S_IMODE(mode):04o})"
        raise PermissionDenied(message, remedy=f"run chmod 600 {path}, or make a new key")
    try:
        key = serialization.load_pem_private_key(data, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        # Without the cause: its text may quote the file.
        message = f"{path} has no private key that can be read without a passphrase"
        raise InvalidArgument(message, remedy=_MAKE_REMEDY) from None
    if not isinstance(key, Ed25519PrivateKey):
        message = f"the private key {path} is not an Ed25519 key"
        raise InvalidArgument(message, remedy=_MAKE_REMEDY)
    return PrivateKey(key, _public_of(key, str(path)))


def read_public(path: Path) -> PublicKey:
    """Read a public key.

    Raises:
        NotFound: there is no such file.
        InvalidArgument: it has no public Ed25519 key.
    """
    data = files.read_bounded(path, _MAX_BYTES, nofollow=False)
    return parse_public(data.decode("utf-8", "replace"), str(path))


def read_configured(paths: Sequence[str]) -> tuple[PublicKey, ...]:
    """Read the public keys of `[trust]`, which no other user may be able to replace.

    Raises:
        NotFound, InvalidArgument: one is missing or not a public Ed25519 key.
        PermissionDenied: another user could replace one.
    """
    for path in paths:
        os.close(trusted.open_file(Path(path), os.O_RDONLY | os.O_NONBLOCK))
    return tuple(read_public(Path(path)) for path in paths)


def parse_public(pem: str, name: str) -> PublicKey:
    """Return the public key in a PEM text; `name` is where it is from.

    Raises:
        InvalidArgument: it has no public Ed25519 key.
    """
    key = _decode(pem, name)
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    der = key.public_bytes(serialization.Encoding.DER, form)
    normal = key.public_bytes(serialization.Encoding.PEM, form).decode("ascii")
    return PublicKey(name=name, pem=normal, id=hashlib.sha256(der).hexdigest())


def _decode(pem: str, name: str) -> Ed25519PublicKey:
    try:
        key = serialization.load_pem_public_key(pem.encode("ascii"))
    except (ValueError, UnsupportedAlgorithm) as error:
        raise _not_a_key(name) from error
    if not isinstance(key, Ed25519PublicKey):
        raise _not_a_key(name)
    return key


def _public_of(key: Ed25519PrivateKey, name: str) -> PublicKey:

    pem = key.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return parse_public(pem.decode("ascii"), name)


def _not_a_key(name: str) -> InvalidArgument:
    message = f"{name} has no public Ed25519 key in PEM form"
    return InvalidArgument(message, remedy=f"give the {PUBLIC_SUFFIX} file; {_MAKE_REMEDY}")


def _create(path: Path, data: bytes, mode: int) -> None:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
    try:
        with open(os.open(path, flags, mode), "wb") as file:  # noqa: PTH123 - a descriptor
            os.fchmod(file.fileno(), mode)
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise typed(error, f"make the key {path}") from error
