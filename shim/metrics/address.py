"""Where metrics are served: on the loopback interface or a unix socket, and nowhere else."""

from __future__ import annotations

from shim.errors import InvalidArgument
from shim.service import listen_address
from shim.service.listen_address import ListenAddress

_REMEDY = "write 127.0.0.1:PORT, [::1]:PORT or unix:/path, and let a proxy serve others"


def parse(text: str) -> ListenAddress:
    """Read the address of the settings.

    Raises:
        InvalidArgument: it is not an address, or one that other machines reach.
    """
    found = listen_address.parse(text, "metrics.address", _REMEDY)
    if not found.is_of_this_host:
        message = (
            f"metrics.address {text!r} can be reached from other machines, "
            "and metrics have no access control"
        )
        raise InvalidArgument(message, remedy=_REMEDY)
    return found
