"""Untrusted text made safe to print: applied to output, not to input."""

from __future__ import annotations

from collections.abc import Sequence

_CUT = "..."
# An excerpt shows one part in so many before the difference.
_BEFORE = 3
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


def excerpts(one: str, other: str, limit: int) -> tuple[str, str]:
    """Cut two texts to `limit` characters each, so that where they first differ is shown.

    What is left out is marked by `...`, which adds to the limit.
    """
    if max(len(one), len(other)) <= limit:
        return one, other
    differ = _first_difference(one, other)
    begin = differ - limit // _BEFORE if differ > limit // 2 and one != other else 0
    return _excerpt(one, begin, limit), _excerpt(other, begin, limit)


def _first_difference(one: str, other: str) -> int:
    pairs = enumerate(zip(one, other, strict=False))
    return next((at for at, (a, b) in pairs if a != b), min(len(one), len(other)))


def _excerpt(text: str, begin: int, limit: int) -> str:
    end = begin + limit
    return (_CUT if begin else "") + text[begin:end] + (_CUT if len(text) > end else "")


def _shown(character: str) -> str:
    if character.isprintable():
        return character
    if character in _BLANKS:
        return " "
    return character.encode("unicode_escape").decode("ascii")
