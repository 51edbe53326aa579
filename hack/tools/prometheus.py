"""Prometheus' promtool, which checks alert rules."""

from __future__ import annotations

from hack.tools.debian import Packages, from_own_apt, from_suite
from hack.tools.kept import from_cache
from hack.tools.tool import Tool

_DEBIAN = Packages(
    suite="bookworm",
    version="2.42.0",
    pins={"prometheus": "81d59a24fce84f7fbe97a45a4f2914b6a5881b5cd1db2a6a0e129e515e1a5f55"},
)
PROMTOOL = Tool(
    "promtool",
    _DEBIAN.version,
    ("promtool",),
    (from_cache, from_own_apt(_DEBIAN), from_suite(_DEBIAN)),
)
