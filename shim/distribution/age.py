"""age's recipients and identities: X25519 keys of age, and ssh keys (Ed25519 and RSA)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pyrage

from shim.distribution.key_files import read_private
from shim.errors import InvalidArgument, PermissionDenied
from shim.host.files import read_bounded
from shim.host.text import printable
from shim.model import Value

_MAX_BYTES = 64 << 10
_MAX_RECIPIENTS = 64
_X25519 = "age1"
_SSH = ("ssh-ed25519 ", "ssh-rsa ")
_SECRET = "AGE-SECRET-KEY-1"  # noqa: S105 - how one begins
_PEM = b"-----BEGIN "
_SHOWN = 80


class Recipients(Value):
    """Recipients; `names` are their texts without comments, sorted."""

    keys: tuple[Any, ...]
    names: tuple[str, ...]


def recipients_in(texts: Iterable[str]) -> Recipients:
    """Return the recipients of texts, each of which is one or the path of a file with one a line.

    Raises:
        InvalidArgument: one is not valid, or of a kind that is not supported.
    """
    found: dict[str, Any] = {}
    for text in texts:
        for one in [text] if _is_recipient(text) else _lines(_read(text)):
            name = " ".join(one.split()[:2])
            found[name] = _recipient(name)
    if not 0 < len(found) <= _MAX_RECIPIENTS:
        message = f"there are {len(found)} recipients, and there must be 1 to {_MAX_RECIPIENTS}"
        raise InvalidArgument(message, remedy="correct the file of recipients")
    names = sorted(found)
    return Recipients(keys=tuple(found[name] for name in names), names=tuple(names))


def secrets_in(paths: Sequence[str]) -> list[bytes]:
    """Return the secrets in identity files: age's, one a line, or an ssh key each.

    Raises:
        InvalidArgument: a file has none.
        PermissionDenied: other users can read a file.
    """
    found: list[bytes] = []
    for path in paths:
        data = read_private(Path(path)).strip()
        here = [data] if data.startswith(_PEM) else [line.encode() for line in _lines(data)]
        for secret in here or [b""]:
            _identity(secret, path)
        found += here
    return found


def encrypt(data: bytes, recipients: Recipients) -> bytes:
    """Encrypt a few bytes for recipients, as an age file."""
    sealed: bytes = pyrage.encrypt(data, list(recipients.keys))
    return sealed


def decrypt(data: bytes, paths: Sequence[str], where: str) -> bytes:
    """Decrypt an age file with the identities in files; `where` is what it belongs to.

    Raises:
        PermissionDenied: it is not encrypted for any of them, or was changed.
    """
    identities = [_identity(one, path) for path in paths for one in secrets_in([path])]
    try:
        plain: bytes = pyrage.decrypt(data, identities)
    except pyrage.DecryptError as error:
        message = f"no identity in {', '.join(paths)} decrypts the key of {where}: {error}"
        remedy = "use the identity of a recipient that it was pushed for"
        raise PermissionDenied(message, remedy=remedy) from error
    return plain


def _is_recipient(text: str) -> bool:
    if text.upper().startswith(_SECRET):
        message = "a secret key is given in place of a recipient"
        raise InvalidArgument(message, remedy="give its public key, and never the secret itself")
    return text.startswith((_X25519, *_SSH)) and "/" not in text.split(" ", 1)[0]


def _recipient(text: str) -> Any:
    """Return a recipient; what is of no kind may be a secret, and is not shown."""
    remedy = "give an age1... or an ssh-ed25519 or ssh-rsa key, or a file of these, one a line"
    if not _is_recipient(text):
        message = "a recipient is of no supported kind"
        raise InvalidArgument(message, remedy=remedy)
    try:
        if text.startswith(_X25519):
            return pyrage.x25519.Recipient.from_str(text)
        return pyrage.ssh.Recipient.from_str(text)
    except pyrage.RecipientError as error:
        message = f"{printable(text, _SHOWN)!r} is not a recipient: {error}"
        raise InvalidArgument(message, remedy=remedy) from error


def _identity(secret: bytes, path: str) -> Any:
    """Return the identity of a secret, which appears in no message."""
    try:
        if secret.startswith(_PEM):
            return pyrage.ssh.Identity.from_buffer(secret + b"\n")
        if secret.startswith(_SECRET.encode()):
            return pyrage.x25519.Identity.from_str(secret.decode())
        why = "it has no secret key of age or ssh"
    except (pyrage.IdentityError, UnicodeDecodeError) as error:
        why = str(error)
    message = f"{path} is not an identity file: {why}"
    remedy = "give a file of age-keygen, or an ssh key (Ed25519 or RSA) without a passphrase"
    raise InvalidArgument(message, remedy=remedy)


def _read(path: str) -> bytes:
    return read_bounded(Path(path), _MAX_BYTES, nofollow=False)


def _lines(data: bytes) -> list[str]:
    """Return the lines of a file without comments."""
    lines = (line.strip() for line in data.decode("utf-8", "replace").splitlines())
    return [line for line in lines if line and not line.startswith("#")]
