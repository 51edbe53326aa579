"""Text from elsewhere, made safe to show: called where text leaves us, not where it comes in."""

from __future__ import annotations

from collections.abc import Sequence

_CUT = "..."
# What str.split takes for white space, apart from the space itself, and may stand in a text.
_BLANKS = frozenset("\t\n\r\v\f")


def printable(text: str, limit: int | None = None) -> str:
    r"""Return `text` on one line and without a character that acts on a terminal or a log.

    Line breaks and tabs become spaces. Whatever else is not printable (control characters such as
    ESC, those that turn the direction of writing, bytes that were no UTF-8) is written as an
    escape such as `\x1b`. Text longer than `limit` characters ends in `...`.
    """
    if not text.isprintable():
        text = "".join(map(_shown, text if limit is None else text[: limit + 1]))
    if limit is None or len(text) <= limit:
        return text
    return text[: max(limit - len(_CUT), 0)] + _CUT[:limit]


def printable_lines(text: str) -> str:
    """Return `text` with its lines, each of them as `printable` writes it."""
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
