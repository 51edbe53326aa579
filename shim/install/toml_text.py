"""Where the tables of a TOML text are, and cuts of them that leave each other byte as it is.

Only a reader of TOML is in the standard library. It also says where a table begins: a line is the
header of a table if it is one alone and the text before it is complete.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

_LINE = re.compile(r"[^\n]*\n|[^\n]+")
_EMPTY = re.compile(r"[ \t]*(#[^\n]*)?\r?\n?")

Path = tuple[str, ...]


@dataclass(frozen=True)
class Table:
    """A table that has a header: its path, and where it begins and ends in the text.

    Comments and empty lines after its last key are not a part of it: they belong to what follows.
    """

    path: Path
    begin: int
    end: int


def tables(text: str) -> list[Table]:
    """Return the tables of a valid text in order."""
    starts = [*_headers(text), (len(text), ())]
    return [
        Table(path, begin, _end(text, begin, following))
        for (begin, path), (following, _) in pairwise(starts)
    ]


def append(text: str, block: str) -> str:
    """Append lines to a text after an empty line; a text without a newline at its end has none."""
    newline = "\r\n" if "\r\n" in text else "\n"
    lines = block.replace("\n", newline)
    if not text:
        return lines
    if text.endswith("\n"):
        return f"{text}{newline}{lines}"
    return f"{text}{newline}{newline}{lines.removesuffix(newline)}"


def cut(text: str, begin: int, end: int) -> str:
    """Take lines out again that `append` has added, with the empty line before them."""
    before, after = text[:begin], text[end:]
    newline = "\r\n" if before.endswith("\r\n") else "\n"
    if before == newline or before.endswith(f"\n{newline}"):
        before = before.removesuffix(newline)
    if not after and not text.endswith("\n"):
        before = before.removesuffix(newline)
    return before + after


def line_before(text: str, begin: int) -> str:
    """Return the line before a place, which is the beginning of a line."""
    return text[text.rfind("\n", 0, max(begin - 1, 0)) + 1 : begin]


def _headers(text: str) -> Iterator[tuple[int, Path]]:
    part = 0
    for line in _LINE.finditer(text):
        path = _path(line[0])
        if path and _is_complete(text[part : line.start()]):
            yield line.start(), path
            part = line.start()


def _path(line: str) -> Path:
    """Return the path of a table if a line can be its header."""
    if not line.lstrip(" \t").startswith("["):
        return ()
    try:
        found: Any = tomllib.loads(line)
    except tomllib.TOMLDecodeError:
        return ()
    names = []
    while isinstance(found, dict) and found:
        ((name, found),) = found.items()
        names.append(name)
    return tuple(names)


def _is_complete(part: str) -> bool:
    """Return whether a text from the beginning of a table does not end inside of a value."""
    try:
        tomllib.loads(part)
    except tomllib.TOMLDecodeError:
        return False
    return True


def _end(text: str, begin: int, following: int) -> int:
    end = begin
    for line in _LINE.finditer(text, begin, following):
        if not _EMPTY.fullmatch(line[0]):
            end = line.end()
    return end
