"""How much a server takes on."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """Connections at once, and calls at once on each; one Wait per process is in flight."""

    connections: int = 256
    calls: int = 1024
