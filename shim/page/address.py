"""Where the page is served: on this host without a token, and with one on any address."""

from __future__ import annotations

from pathlib import Path

from shim.config import Http
from shim.errors import InvalidArgument
from shim.page.access import Access, read_token
from shim.service import listen_address
from shim.service.listen_address import ListenAddress

_REMEDY = "write 127.0.0.1:PORT, [::1]:PORT or unix:/path"


def checked(settings: Http) -> tuple[ListenAddress, Access]:
    """Return where to listen, and who may read the page.

    Raises:
        InvalidArgument: it is not an address, or other machines would reach it without a token.
        CryoError: the token cannot be read.
    """
    where = listen_address.parse(settings.address, "http.address", _REMEDY)
    token = read_token(Path(settings.token_file)) if settings.token_file else None
    if token is None and not where.is_of_this_host:
        message = (
            f"http.address {settings.address!r} can be reached from other machines, "
            "and the page would have no access control"
        )
        remedy = f"name a file with a token in http.token_file (--http-token-file), or {_REMEDY}"
        raise InvalidArgument(message, remedy=remedy)
    return where, Access(token)
