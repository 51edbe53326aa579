"""The library that harnesses import: `AsyncClient` for asyncio, `Client` that blocks."""

from shim.client.aio import AsyncClient
from shim.client.blocking import Client

__all__ = ["AsyncClient", "Client"]
