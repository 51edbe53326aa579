"""How two values of a spec differ, in a line of bounded length that shows where."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from shim.host.text import excerpts
from shim.model import Value

_SHOWN_VALUE = 60
_SHOWN_DIFFERENCES = 12
_SHOWN_NAMES = 3


class Difference(Value):
    """A field of the spec that a restore cannot change, and how the two differ."""

    field: str
    detail: str

    def __str__(self) -> str:
        return f"{self.field} ({self.detail})"


def changes(old: Mapping[str, Any], new: Mapping[str, Any]) -> tuple[Difference, ...]:
    """List the fields whose values differ."""
    return tuple(
        Difference(field=name, detail=_detail(old.get(name), new.get(name)))
        for name in dict.fromkeys((*old, *new))
        if old.get(name) != new.get(name)
    )


def describe(found: Sequence[Difference]) -> str:
    """List differences in one line, up to a limit."""
    shown = "; ".join(map(str, found[:_SHOWN_DIFFERENCES]))
    more = len(found) - _SHOWN_DIFFERENCES
    return f"{shown}; and {more} more" if more > 0 else shown


def shown(value: Any) -> str:
    """Return a value as a text of bounded length."""
    return _both(value, value)[0]


def _detail(old: Any, new: Any) -> str:
    if isinstance(old, list) and isinstance(new, list):
        lacks = [one for one in old if one not in new]
        adds = [one for one in new if one not in old]
        lacking, added = _both(lacks, adds)
        parts = [("lacks", lacks, lacking), ("adds", adds, added)]
        if said := [f"{verb} {text}" for verb, ones, text in parts if ones]:
            return ", ".join(said)
    if isinstance(old, dict) and isinstance(new, dict):
        names = [name for name in dict.fromkeys((*old, *new)) if old.get(name) != new.get(name)]
        return ", ".join(
            f"{name}: {_detail(old.get(name), new.get(name))}" for name in names[:_SHOWN_NAMES]
        )
    was, now = _both(old, new)
    return f"saved {was}, given {now}"


def both_shown(old: Any, new: Any) -> tuple[str, str]:
    """Return both values as texts of bounded length, empty for nothing."""
    was, now = _both(old, new)
    return "" if old is None else was, "" if new is None else now


def _both(old: Any, new: Any) -> tuple[str, str]:
    """Return both values as texts, cut where they differ first if they are too long."""
    return excerpts(_plain(_words(old)), _plain(_words(new)), _SHOWN_VALUE)


def _words(value: Any) -> str:
    if value is None or value in ([], ""):
        return "nothing"
    if isinstance(value, list) and all(isinstance(one, str) for one in value):
        return ", ".join(value)
    return value if isinstance(value, str) else json.dumps(value, sort_keys=True)


def _plain(text: str) -> str:
    return "".join(letter if letter.isprintable() else "?" for letter in text)
