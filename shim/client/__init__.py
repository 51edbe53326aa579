"""The client library: `AsyncClient` for asyncio, and the blocking `Client`."""

from shim.client.aio import AsyncClient
from shim.client.blocking import Client

__all__ = ["AsyncClient", "Client"]
