"""The global options, and the clients that are created from them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click
import msgspec

from shim.host.text import printable_lines

if TYPE_CHECKING:
    from shim.client import AsyncClient, Client


@dataclass(frozen=True)
class Settings:
    """The sidecar's address, the namespace, and the output format."""

    address: str
    namespace: str
    as_json: bool
    address_given: bool = False

    def client(self) -> Client:
        """Create a blocking client."""
        from shim.client import Client

        return Client(self.address, self.namespace)

    def async_client(self) -> AsyncClient:
        """Create a client for asyncio."""
        from shim.client import AsyncClient

        return AsyncClient(self.address, self.namespace)

    def show(self, value: Any, text: str) -> None:
        """Print a value as JSON, or its text, if there is any."""
        if self.as_json:
            print(json.dumps(msgspec.to_builtins(value), indent=2))
        elif text:
            print(printable_lines(text))


pass_settings = click.make_pass_decorator(Settings)
