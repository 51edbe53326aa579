"""Where an HTTP server of the sidecar listens: a unix socket, or a port of an IP address."""

from __future__ import annotations

import ipaddress
import socket

from shim.errors import InvalidArgument, Unavailable
from shim.model import Value
from shim.service import address

_PORT_MAX = 65535


class ListenAddress(Value):
    """An address: of a unix socket if `path` is set, else of a TCP port, 0 for any free one."""

    path: str = ""
    host: str = ""
    port: int = 0

    @property
    def is_of_this_host(self) -> bool:
        """Whether only this host reaches it."""
        return bool(self.path) or ipaddress.ip_address(self.host).is_loopback

    def listener(self, what: str, section: str) -> socket.socket:
        """Listen on the port; `what` is served there, as configured in a section of config.toml.

        Raises:
            Unavailable: it cannot be bound.
        """
        family = socket.AF_INET6 if ":" in self.host else socket.AF_INET
        listener = socket.socket(family, socket.SOCK_STREAM)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind((self.host, self.port))
            listener.listen()
        except OSError as error:
            listener.close()
            message = f"cannot serve {what} on {self.host} port {self.port}: {error.strerror}"
            raise Unavailable(message, remedy=f"choose another port in [{section}]") from error
        return listener


def parse(text: str, setting: str, remedy: str) -> ListenAddress:
    """Read the address in a setting.

    Raises:
        InvalidArgument: it is not an address.
    """
    if text.startswith(("unix:", "/")):
        return ListenAddress(path=address.parse(text))
    host, _, port = text.rpartition(":")
    try:
        found = ipaddress.ip_address(host.removeprefix("[").removesuffix("]"))
        number = int(port)
    except ValueError as error:
        message = f"{setting} {text!r} is not an address"
        raise InvalidArgument(message, remedy=remedy) from error
    if not 0 <= number <= _PORT_MAX or not port.isascii() or not port.isdigit():
        message = f"{setting} {text!r} has no valid port"
        raise InvalidArgument(message, remedy=remedy)
    return ListenAddress(host=str(found), port=number)


def url(listener: socket.socket) -> str:
    """Return the URL of a port that is listened on."""
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
