"""Tables of the rows, for the terminal and for the blocks of docs/performance.md.

A block of that document stands between comments, and is written from the results alone.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from hack.bench import goals, plot
from hack.bench.plots import PLOTS
from hack.bench.result import ROOT, Result
from hack.bench.row import Row

DOCUMENT = ROOT / "docs" / "performance.md"
BLOCK = re.compile(
    r"<!-- bench: (?P<name>[a-z-]+) -->\n(?P<text>.*?)<!-- end of (?P=name) -->\n", re.DOTALL
)
# What is compared comes first, and then the comparison.
_ORDER = (
    *("plain", "script", "native", "ours", "phased", "builtin", "cryo", "runsc", "runc"),
    *("cold", "warm", "ratio", "added"),
)


def table(case: str, rows: Mapping[str, Row]) -> list[str]:
    """Return the table of a case: a row for each point, a column for each way.

    A cell has the median, the least and the most.
    """
    cells: dict[str, dict[str, Row]] = {}
    for key, row in rows.items():
        name, _, rest = key.partition(".")
        point, _, column = rest.partition(".")
        if name == case and column:
            cells.setdefault(point, {})[column] = row
    if not cells:
        return ["Not measured."]
    points = sorted(
        cells, key=lambda point: (not point.isdigit(), int(point) if point.isdigit() else 0)
    )
    columns = sorted({name for found in cells.values() for name in found}, key=_place)
    head = [f"{name.replace('-', ' ')}{_unit(name, cells)}" for name in columns]
    lines = [f"| | {' | '.join(head)} | n |", "|---" * (len(columns) + 2) + "|"]
    for point in points:
        found = cells[point]
        most = max((row.n for row in found.values()), default=0)
        shown = (_shown(found.get(name)) for name in columns)
        lines.append(f"| {point.replace('-', ' ')} | {' | '.join(shown)} | {most or ''} |")
    return lines


def _place(column: str) -> tuple[int, str]:
    return _ORDER.index(column) if column in _ORDER else len(_ORDER), column


def _unit(column: str, cells: Mapping[str, Mapping[str, Row]]) -> str:
    units = {found[column].unit for found in cells.values() if column in found}
    (unit,) = units if len(units) == 1 else ("",)
    return f", {unit}" if unit and unit not in column else ""


def _shown(row: Row | None) -> str:
    if row is None:
        return ""
    if row.value is None:
        return row.note
    spread = f" ({row.min:g} to {row.max:g})" if row.n > 1 else ""
    return f"{row.value:g}{spread}{f'; {row.note}' if row.note else ''}"


def drawn(document: str, result: Result) -> str:
    """Return the document with its blocks written again.

    Raises:
        ValueError: a block has an unknown name.
    """

    def block(match: re.Match[str]) -> str:
        name = match["name"]
        text = "\n".join(_lines(name, result))
        return f"<!-- bench: {name} -->\n\n{text}\n\n<!-- end of {name} -->\n"

    return BLOCK.sub(block, document)


def _lines(name: str, result: Result) -> Iterable[str]:
    if name == "goals":
        return goals.lines(result.rows)
    if name == "conditions":
        if all(row.source for row in result.rows.values()):
            return ["All rows are of earlier runs; below each table is where they were measured."]
        facts = ", ".join(result.machine.values())
        return [f"Measured on {result.date} by `{result.command}`: {facts}."]
    lines = [*table(name, result.rows), *_others(name, result)]
    if name in PLOTS:
        return [*lines, "", f"![{PLOTS[name].title}](performance-{name}.svg)"]
    return lines


def _others(case: str, result: Result) -> list[str]:
    """Return where the points of a case were measured that are not of this run."""
    points: dict[str, list[str]] = {}
    for key, row in result.rows.items():
        name, _, rest = key.partition(".")
        point = rest.partition(".")[0]
        if name == case and row.source and point not in points.setdefault(row.source, []):
            points[row.source].append(point)
    lines: list[str] = []
    for name, found in points.items():
        source = result.sources[name]
        where = f"{source.date}, {source.machine}, `{source.command}`"
        lines += ["", f"{', '.join(found)}: {where}."]
    return lines


def write_plots(result: Result, folder: Path) -> None:
    """Write the picture of each plot that has points."""
    for name, text in plots(result).items():
        (folder / f"performance-{name}.svg").write_text(text, "utf-8")


def plots(result: Result) -> dict[str, str]:
    """Return the pictures, by the ends of their names."""
    found = {name: plot.svg(one, result.rows) for name, one in PLOTS.items()}
    return {name: text for name, text in found.items() if text}
