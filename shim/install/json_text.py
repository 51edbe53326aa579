"""Members of the objects of a JSON text: add one and remove one, all else stays byte for byte."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass

_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"|[{}\[\],:]|[^\s{}\[\],:"]+')


@dataclass(frozen=True)
class Member:
    """A member of an object: its name, where that begins, and where its value begins and ends."""

    name: str
    begin: int
    value: int
    end: int


def members(text: str, begin: int) -> list[Member]:
    """Return the members of the object that begins at a place of a valid text."""
    found: list[Member] = []
    depth = last = 0
    parts: list[re.Match[str]] = []
    for token in _TOKEN.finditer(text, begin):
        if depth == 1 and token[0] in ",}":
            if parts:
                key, value = parts[0], parts[2]
                found.append(Member(json.loads(key[0]), key.start(), value.start(), last))
            parts = []
        elif depth == 1:
            parts.append(token)
        depth += (token[0] in "{[") - (token[0] in "}]")
        if not depth:
            break
        last = token.end()
    return found


def find(text: str, begin: int, name: str) -> Member | None:
    """Return a member of an object by its name: the last one, as readers of JSON take it."""
    return next((one for one in reversed(members(text, begin)) if one.name == name), None)


def start(text: str) -> int:
    """Return where the outermost value begins."""
    return len(text) - len(text.lstrip())


def add(text: str, begin: int, member: str) -> str:
    """Add a member as the first one of an object, with the white space of that which it precedes.

    In an object without members a space precedes it.
    """
    after = begin + 1
    others = members(text, begin)
    space = text[after : others[0].begin] if others else " "
    return f"{text[:after]}{space}{member}{',' if others else ''}{text[after:]}"


def remove(text: str, begin: int, member: Member) -> str:
    """Remove a member of an object, with one comma and the white space before it."""
    others = members(text, begin)
    index = others.index(member)
    if member != others[-1]:
        comma = text.index(",", member.end) + 1
        previous = text.index(",", others[index - 1].end) + 1 if index else begin + 1
        return text[:previous] + text[comma:]
    previous = others[index - 1].end if index else begin + 1
    return text[:previous] + text[member.end :]
