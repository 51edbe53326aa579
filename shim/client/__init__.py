"""The client library: `AsyncClient` for asyncio, and the blocking `Client`.

Each is loaded when it is used: that for asyncio loads gRPC.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from shim.client.aio import AsyncClient
    from shim.client.blocking import Client

__all__ = ["AsyncClient", "Client"]

_MODULES = {"AsyncClient": "shim.client.aio", "Client": "shim.client.blocking"}


def __getattr__(name: str) -> Any:
    """Load a client at its first use."""
    if name not in _MODULES:
        message = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(message)
    return getattr(importlib.import_module(_MODULES[name]), name)
