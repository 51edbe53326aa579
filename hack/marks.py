"""The marks of figures in a document, and the measurements that have none; see `hack.figures`."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

from hack.bench import report
from hack.bench.row import RATIO

FIGURE = re.compile(r"<!--fig:(?P<key>[^\s>]+)-->(?P<text>.*?)<!--/-->", re.DOTALL)
TABLE = re.compile(r"<!--figs:(?P<prefix>[^\s>]+)(?: unit=(?P<unit>[^\s>]+))?-->")
NUMBER = re.compile(r"^(?P<number>-?\d[\d,]*(?:\.\d+)?)(?: (?P<unit>\S+))?$")
_SET = re.compile(r"<!--set-->.*?<!--/-->", re.DOTALL)
_CODE = re.compile(r"^(```|~~~).*?^\1|^ {4,}\S[^\n]*$", re.MULTILINE | re.DOTALL)
_INLINE = re.compile(r"`[^`]*`")
_UNITS = "ms|µs|s|seconds|minutes|MiB/s|MB/s|GiB/s|GB/s|times"
MEASURED = re.compile(
    rf"(?<![\w.:-])\d[\d,]*(?:\.\d+)?(?:\s(?:{_UNITS})\b|x\b|\s?%)"
    r"|(?<![\w.:-])\d+\.\d+\s(?:[KMG]iB|[kMG]B)\b"
)
_DECIMAL = re.compile(r"^-?\d+\.\d+$")

# A key, the text that stands there and the unit of its table; returns what is to stand there.
Visit = Callable[[str, str, str], str]


class Wrong(Exception):
    """A document is not what it should be; the argument says where and what to do."""


def slug(cell: str) -> str:
    """Return the part of a key for the first cell of a row, or the head of a column."""
    return re.sub(r"[^a-z0-9.]+", "-", FIGURE.sub("", cell).lower()).strip("-")


def rewritten(text: str, visit: Visit) -> str:
    """Return a document with each marked figure replaced by what `visit` returns."""
    lines = iter(FIGURE.sub(lambda m: _marked(m, visit), text).split("\n"))
    done = []
    for line in lines:
        done.append(line)
        if found := TABLE.search(line):
            done += _table(lines, found["prefix"], found["unit"] or "", visit)
    return "\n".join(done)


def _marked(match: re.Match[str], visit: Visit) -> str:
    key = match["key"]
    return f"<!--fig:{key}-->{visit(key, match['text'], '')}<!--/-->"


def _table(lines: Iterator[str], prefix: str, unit: str, visit: Visit) -> Iterator[str]:
    heads: list[str] = []
    seen: set[str] = set()
    for line in lines:
        if not line.startswith("|"):
            yield line
            if heads or line:
                return
            continue
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
        if not heads:
            heads = [slug(cell) for cell in cells]
            if len(set(heads)) < len(heads):
                message = f"figs:{prefix}: two columns have the same head"
                raise Wrong(message)
        elif not set(line) <= set("|-: "):
            name = slug(cells[0])
            if name in seen:
                message = f"figs:{prefix}: two rows are called {name}"
                raise Wrong(message)
            seen.add(name)
            keys = [f"{prefix}.{name}.{head}" for head in heads]
            cells[1:] = [
                visit(key, cell, RATIO if "ratio" in key else unit) if NUMBER.match(cell) else cell
                for key, cell in zip(keys[1:], cells[1:], strict=True)
            ]
            line = f"| {' | '.join(cells)} |"  # noqa: PLW2901  # the rewritten line
        yield line


def parsed(key: str, text: str) -> tuple[str, str]:
    """Split the text of a figure into number and unit."""
    if not (found := NUMBER.match(" ".join(text.split()))):
        message = f"{key}: {text!r} is not a number with an optional unit"
        raise Wrong(message)
    return found["number"], found["unit"] or ""


def unmarked(text: str) -> Iterator[tuple[int, str]]:
    """Give each measurement of a document that has no mark, with its line."""
    rest = text
    for pattern in (report.BLOCK, _CODE, FIGURE, _SET, _INLINE):
        rest = pattern.sub(_blank, rest)
    lines = iter(enumerate(rest.split("\n"), 1))
    in_table = False
    for number, line in lines:
        if TABLE.search(line):
            in_table = True
        elif in_table and line and not line.startswith("|"):
            in_table = False
        cells = line.strip().strip("|").split("|") if line.startswith("|") else []
        cells = [cell.strip() for cell in cells]
        if in_table and cells:
            rest_of_line = " | ".join([cells[0], *(c for c in cells[1:] if not NUMBER.match(c))])
        else:
            rest_of_line = line
            yield from ((number, cell) for cell in cells if _DECIMAL.match(cell))
        yield from ((number, found[0]) for found in MEASURED.finditer(rest_of_line))


def _blank(match: re.Match[str]) -> str:
    """Leave the lines of what is removed."""
    return "\n" * match[0].count("\n")
