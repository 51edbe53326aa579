"""The global options, and the clients that are created from them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import click
import msgspec

from shim.host.text import printable_lines

if TYPE_CHECKING:
    from shim.client import AsyncClient, Client

_T = TypeVar("_T")


class Settings(msgspec.Struct, frozen=True):
    """The sidecar's address, the namespace, and the output format."""

    address: str
    namespace: str
    as_json: bool
    address_given: bool = False

    def client(self) -> Client:
        """Create a blocking client."""
        from shim.client.blocking import Client

        return Client(self.address, self.namespace)

    def async_client(self) -> AsyncClient:
        """Create a client for asyncio."""
        from shim.client import AsyncClient

        return AsyncClient(self.address, self.namespace)

    def with_image(
        self, images: Sequence[str], through: Callable[[Client], _T], here: Callable[[], _T]
    ) -> _T:
        """Call the sidecar; without one, do it in this process if all images are paths.

        Raises:
            Unavailable: no sidecar answers, and an image is given by its name.
        """
        from shim.errors import Unavailable

        try:
            with self.client() as client:
                return through(client)
        except Unavailable:
            if not all(image.startswith("/") for image in images):
                raise
            return here()

    def show(self, value: Any, text: str) -> None:
        """Print a value as JSON, or its text, if there is any."""
        if self.as_json:
            import json

            print(json.dumps(msgspec.to_builtins(value), indent=2))
        elif text:
            print(printable_lines(text))


pass_settings = click.make_pass_decorator(Settings)
