"""Who may read the page: a token, as a bearer token or as the cookie that it is exchanged for."""

from __future__ import annotations

import hashlib
import hmac
import os
import re
import secrets
import stat
from pathlib import Path

from shim.errors import InvalidArgument, PermissionDenied
from shim.host import trusted
from shim.host.oserror import typed

COOKIE = "cryo_page"
_MAX_BYTES = 4096
_LEAST = 16
_TOKEN = re.compile(rb"[\x21-\x7e]+")
_OTHERS = stat.S_IRWXG | stat.S_IRWXO


class Access:
    """The token of a page, or none; the value of its cookie holds until the sidecar stops."""

    def __init__(self, token: bytes | None) -> None:
        """Take the token; without one everybody who reaches the address may read the page."""
        self._token = token
        self._session = (
            hmac.new(secrets.token_bytes(32), token, hashlib.sha256).hexdigest() if token else ""
        )

    @property
    def needs_token(self) -> bool:
        """Whether a token is needed at all."""
        return self._token is not None

    def accepts(self, token: str) -> bool:
        """Whether this is the token."""
        given = token.encode("utf-8", "surrogateescape")
        return self._token is not None and hmac.compare_digest(given, self._token)

    def knows(self, session: str) -> bool:
        """Whether this is the value of the cookie."""
        given = session.encode("utf-8", "surrogateescape")
        return self._token is not None and hmac.compare_digest(given, self._session.encode())

    @property
    def cookie(self) -> str:
        """Return the header that sets the cookie: for this site alone, and not for scripts."""
        return f"{COOKIE}={self._session}; Path=/; HttpOnly; SameSite=Strict"


def read_token(path: Path) -> bytes:
    """Read the token of a file that only root, or this user, can read.

    Raises:
        NotFound: there is no such file.
        PermissionDenied: others can read it, or replace it.
        InvalidArgument: it has no token, or a short one.
    """
    fd = trusted.open_file(path, os.O_RDONLY)
    try:
        mode = os.fstat(fd).st_mode
        data = os.read(fd, _MAX_BYTES)
    except OSError as error:
        raise typed(error, f"read {path}") from error
    finally:
        os.close(fd)
    if mode & _OTHERS:
        message = f"others may read the token in {path} (mode {stat.S_IMODE(mode):04o})"
        raise PermissionDenied(message, remedy=f"run chmod 600 {path}, and write a new token")
    token = data.strip()
    if len(token) < _LEAST or _TOKEN.fullmatch(token) is None:
        message = f"{path} has no token of {_LEAST} or more characters without spaces"
        raise InvalidArgument(message, remedy=f"make one: openssl rand -hex 32 > {path}")
    return token
