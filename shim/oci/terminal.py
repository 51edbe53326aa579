"""The terminal size in an OCI process object."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from shim.errors import InvalidArgument
from shim.host.console import Size


def console_size(process: Mapping[str, Any] | None) -> Size | None:
    """Return `consoleSize`; None if it is missing or not a valid size."""
    said = (process or {}).get("consoleSize")
    width, height = (said.get("width"), said.get("height")) if isinstance(said, Mapping) else (0, 0)
    if not (type(width) is int and type(height) is int and width and height):
        return None
    try:
        return Size(width, height).check()
    except InvalidArgument:
        return None
