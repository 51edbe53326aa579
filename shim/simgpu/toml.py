"""Writes the subset of TOML that config.toml needs; the standard library only reads TOML."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Tables = dict[str, dict[str, Any]]


def merge(base: Tables, more: Mapping[str, Mapping[str, Any]]) -> Tables:
    """Return tables with keys added or replaced; `runsc__flags` is the table `runsc.flags`."""
    tables = {name: dict(values) for name, values in base.items()}
    for name, values in more.items():
        tables.setdefault(name.replace("__", "."), {}).update(values)
    return tables


def dump(tables: Tables) -> str:
    """Write tables of plain values."""
    return "".join(_table(name, values) for name, values in tables.items())


def _table(name: str, values: Mapping[str, Any]) -> str:
    lines = [f"{key} = {_value(value)}" for key, value in values.items()]
    return "\n".join([f"[{name}]", *lines, "", ""])


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (int, float)):
        return str(value)
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(_value(item) for item in value)}]"
    text = str(value).replace("\\", "\\\\").replace('"', '\\"')
    return f'"{text}"'
