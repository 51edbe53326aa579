"""Tables in plain columns, as ctr prints them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from shim.host.text import printable

_GAP = "    "


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Format rows below a heading, each column as wide as its widest cell."""
    cells = [[*head], *([_cell(value) for value in row] for row in rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(head))]
    return "\n".join(_line(row, widths) for row in cells)


def _line(row: Sequence[str], widths: Sequence[int]) -> str:
    padded = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
    return _GAP.join(padded).rstrip()


def _cell(value: object) -> str:
    """Return a value on one line; `-` if empty, so that columns can be counted."""
    return printable(" ".join(str(value).split())) or "-"
