"""Tables in plain columns, as ctr prints them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from shim.host.text import printable

_GAP = "    "
_UNITS = ("B", "KiB", "MiB", "GiB", "TiB")
_STEP = 1024


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


def size(count: float) -> str:
    """Format a number of bytes, in the largest unit in which it is at least 1."""
    for unit in _UNITS:
        if count < _STEP or unit == _UNITS[-1]:
            break
        count /= _STEP
    return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
