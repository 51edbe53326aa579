"""Untrusted text made safe to print: applied to output, not to input."""

from __future__ import annotations

from collections.abc import Sequence

_CUT = "..."
# White space, apart from the space itself, that becomes a space.
_BLANKS = frozenset("\t\n\r\v\f")


def printable(text: str, limit: int | None = None) -> str:
    r"""Return `text` on one line, without characters that affect a terminal or a log.

    Line breaks and tabs become spaces. Other unprintable characters (control characters such as
    ESC, bidirectional controls, bytes that are not UTF-8) become escapes such as `\x1b`. Text
    longer than `limit` characters is cut and ends in `...`.
    """
    if not text.isprintable():
        text = "".join(map(_shown, text if limit is None else text[: limit + 1]))
    if limit is None or len(text) <= limit:
        return text
    return text[: max(limit - len(_CUT), 0)] + _CUT[:limit]


def printable_lines(text: str) -> str:
    """Return `text` with `printable` applied to each of its lines."""
    return "\n".join(printable(line) for line in text.split("\n"))


def first_few(names: Sequence[str], most: int = 5) -> str:
    """Join the first names with commas, and count the others."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def _shown(character: str) -> str:
    if character.isprintable():
        return character
    if character in _BLANKS:
        return " "
    return character.encode("unicode_escape").decode("ascii")
