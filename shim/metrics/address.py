"""Where metrics are served: on the loopback interface or a unix socket, and nowhere else."""

from __future__ import annotations

import ipaddress

from shim.errors import CryoError, InvalidArgument
from shim.model import Value
from shim.service import address

_PORT_MAX = 65535
_REMEDY = "write 127.0.0.1:PORT, [::1]:PORT or unix:/path, and let a proxy serve others"


class MetricsAddress(Value):
    """An address: of a unix socket if `path` is set, else of a TCP port, 0 for any free one."""

    path: str = ""
    host: str = ""
    port: int = 0


def parse(text: str) -> MetricsAddress:
    """Read the address of the settings.

    Raises:
        InvalidArgument: it is not an address, or one that other machines reach.
    """
    if text.startswith(("unix:", "/")):
        return MetricsAddress(path=address.parse(text))
    host, _, port = text.rpartition(":")
    try:
        found = ipaddress.ip_address(host.removeprefix("[").removesuffix("]"))
        number = int(port)
    except ValueError as error:
        raise _wrong(text, "is not an address") from error
    if not found.is_loopback:
        raise _wrong(text, "can be reached from other machines, and metrics have no access control")
    if not 0 <= number <= _PORT_MAX or not port.isascii() or not port.isdigit():
        raise _wrong(text, "has no valid port")
    return MetricsAddress(host=str(found), port=number)


def _wrong(text: str, why: str) -> CryoError:
    return InvalidArgument(f"metrics.address {text!r} {why}", remedy=_REMEDY)
