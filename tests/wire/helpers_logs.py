"""Reads the log of a sidecar as a collector does: a line that is not of the format is an error."""

from __future__ import annotations

import json
import re

_PAIR = re.compile(r'([a-z_]+)=("(?:[^"\\]|\\.)*"|[^\s"=\\]+)(?: |$)')
# Text of Python objects: `Stdio(stdin=''`, `datetime.datetime(2026`, `<Task at 0x7f`, `{'pid': 1}`.
_OBJECT = re.compile(r"\b[A-Za-z_][\w.]*\(\w+=|\bdatetime\.|<[\w.]+ .*0x|\{'|\('|b'")


def fields_of(line: str) -> dict[str, str]:
    """Return the fields of a line of logfmt."""
    found, at = {}, 0
    while at < len(line):
        pair = _PAIR.match(line, at)
        assert pair is not None, f"not logfmt from here on: {line[at:]!r} of {line!r}"
        name, value = pair.groups()
        assert name not in found, f"{name} twice: {line}"
        found[name] = json.loads(value) if value.startswith('"') else value
        at = pair.end()
    return found


def lines_of(text: str, form: str = "logfmt") -> list[dict[str, str]]:
    """Return the fields of each line of a log, and check what every line has to have."""
    found = []
    for line in text.splitlines():
        fields = json.loads(line) if form == "json" else fields_of(line)
        assert fields.keys() >= {"time", "level", "msg"}, line
        # A traceback shows source code.
        shown = " ".join(str(one) for name, one in fields.items() if name != "exception")
        assert not _OBJECT.search(shown), line
        found.append(fields)
    return found
