"""The limits of a server."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """Concurrent connections, and calls on each; every process has one Wait in flight."""

    connections: int = 256
    calls: int = 1024
