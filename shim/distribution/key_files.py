"""Reads files with secrets, which other users must not be able to read or replace."""

from __future__ import annotations

import base64
import binascii
import os
import stat
from pathlib import Path

from shim.distribution.cipher import KEY_BYTES
from shim.errors import CryoError, InvalidArgument, PermissionDenied
from shim.host import trusted
from shim.host.files import read_bounded
from shim.host.oserror import typed

_MAX_BYTES = 64 << 10
_OTHERS = stat.S_IRWXG | stat.S_IRWXO
# Random bytes have 30 values among 32; fewer than this, practically never.
_LEAST_VALUES = 12
_REMEDY = "make one with `openssl rand -hex 32 > FILE`"


def read_key(path: Path) -> bytes:
    """Return the key in a file: 32 random bytes, as they are or as hexadecimal or base64 text.

    Raises:
        InvalidArgument: it is not such a key.
        PermissionDenied: other users can read or replace the file.
    """
    data = read_private(path)
    key = data if len(data) == KEY_BYTES else _decoded(data.strip())
    if len(key) != KEY_BYTES:
        message = f"{path} is not a key file: it has no {KEY_BYTES} bytes in hexadecimal or base64"
        raise InvalidArgument(message, remedy=_REMEDY)
    if len(set(key)) < _LEAST_VALUES or (key.isascii() and key.decode("ascii").isprintable()):
        message = f"{path} is not a key file: it has a password, or bytes that are not random"
        raise InvalidArgument(message, remedy=_REMEDY)
    return key


def read_private(path: Path) -> bytes:
    """Return the content of a file with a secret; a link to it is followed.

    Raises:
        NotFound: it does not exist.
        InvalidArgument: it is too large, or not a regular file.
        PermissionDenied: other users can read or replace the file.
    """
    trusted.check(path.parent)
    try:
        real = path.resolve(strict=True)
    except OSError as error:
        raise typed(error, f"read {path}") from error
    fd = trusted.open_file(real, os.O_RDONLY | os.O_NONBLOCK)
    try:
        mode = stat.S_IMODE(os.fstat(fd).st_mode)
        if mode & _OTHERS:
            message = f"other users may read {path}, which has a secret (mode {mode:04o})"
            raise PermissionDenied(message, remedy=f"run chmod 600 {path}")
        return read_bounded(Path(f"/proc/self/fd/{fd}"), _MAX_BYTES, nofollow=False)
    except CryoError as error:
        error.rename(f"/proc/self/fd/{fd}", str(path))
        raise
    finally:
        os.close(fd)


def _decoded(text: bytes) -> bytes:
    """Return the bytes of hexadecimal or base64 text; empty if it is neither."""
    try:
        if len(text) == 2 * KEY_BYTES:
            return bytes.fromhex(text.decode("ascii"))
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return b""
