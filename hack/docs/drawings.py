"""Draw the layers and the transactions from the code; with --check, compare the pictures.

python -m hack.docs.drawings [--check]
"""

from __future__ import annotations

import html
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from hack import layers
from hack.docs.calls import Call, calls

DOCS = Path(__file__).resolve().parents[2] / "docs"
BOX_W, BOX_H, GAP_X, GAP_Y, EDGE = 118, 34, 22, 44, 16
LINE_H, TAG_W = 34, 92
BLUE, GRAY, PALE = "#1f6feb", "#57606a", "#ddf4ff"


def pictures() -> dict[str, str]:
    """Return each picture, by the name of its file."""
    found = layers.read(layers.SHIM)
    edges = layers.reduced({name: one.layers - {name} for name, one in found.items()})
    return {
        "architecture-layers.svg": layer_picture(edges),
        "architecture-checkpoint.svg": sequence_picture(
            "Checkpoint", calls("Checkpoint", "_forward")
        ),
        "architecture-restore.svg": sequence_picture(
            "Restore", calls("Restore", "begin", "join", "finish")
        ),
    }


def layer_picture(edges: Mapping[str, set[str]]) -> str:
    """Draw each layer above those that it is built on."""
    rows = _rows(edges)
    width = max(len(row) for row in rows) * (BOX_W + GAP_X) - GAP_X + 2 * EDGE
    height = len(rows) * (BOX_H + GAP_Y) - GAP_Y + 2 * EDGE
    at = {}
    for y, row in enumerate(rows):
        left = (width - len(row) * (BOX_W + GAP_X) + GAP_X) / 2
        for x, name in enumerate(row):
            at[name] = (left + x * (BOX_W + GAP_X), EDGE + y * (BOX_H + GAP_Y))
    lines = [
        _line(
            *(at[name][0] + BOX_W / 2, at[name][1] + BOX_H, at[to][0] + BOX_W / 2, at[to][1]),
            # It passes behind others.
            dashed=at[to][1] - at[name][1] > BOX_H + GAP_Y,
        )
        for name, below in edges.items()
        for to in sorted(below)
    ]
    boxes = [part for name, (x, y) in at.items() for part in _box(x, y, BOX_W, name)]
    return _svg(
        width, height, "The layers of shim/, each above those that it imports", lines + boxes
    )


def _rows(edges: Mapping[str, set[str]]) -> list[list[str]]:
    """Return the layers from the top, each in a row above all that it is built on."""
    depth: dict[str, int] = {}
    for name in reversed(layers.ordered(edges)):
        depth[name] = 1 + max((depth[below] for below in edges[name]), default=-1)
    most = max(depth.values())
    rows = [sorted(name for name, d in depth.items() if d == most - y) for y in range(most + 1)]
    place = {name: i / len(row) for row in rows for i, name in enumerate(row)}
    for row in reversed(rows):  # what is built on the same stands together
        row.sort(key=lambda name: (_mean([place[below] for below in edges[name]]), name))
        place |= {name: i / len(row) for i, name in enumerate(row)}
    return rows


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else 0.5


def sequence_picture(name: str, found: Sequence[Call]) -> str:
    """Draw the calls of a transaction from the top, a column for each part."""
    parts = list(dict.fromkeys(call.part for call in found))
    columns = [name, *parts]
    step = BOX_W + GAP_X
    middle = {one: TAG_W + EDGE + BOX_W / 2 + x * step for x, one in enumerate(columns)}
    width = TAG_W + 2 * EDGE + len(columns) * step - GAP_X
    top = EDGE + BOX_H + 24
    height = top + len(found) * LINE_H + EDGE
    drawn = [_line(x, EDGE + BOX_H, x, height - EDGE, dashed=True) for x in middle.values()]
    for one, x in middle.items():
        drawn += _box(x - BOX_W / 2, EDGE, BOX_W, one)
    for row, call in enumerate(found):
        y = top + row * LINE_H
        drawn += _tag(y, ", ".join(call.phases))
        drawn += _arrow(middle[name], middle[call.part], y, call)
    return _svg(width, height, f"What a {name.lower()} calls, from the top", drawn)


def _arrow(start: float, end: float, y: float, call: Call) -> Iterator[str]:
    yield f"<g><title>{html.escape(call.text)}</title>{_line(start, y, end - 5, y, color=BLUE)}"
    yield f'<path d="M{end:g} {y:g}l-8 -4v8z" fill="{BLUE}"/>'
    x = end - 12
    yield f'<text x="{x:g}" y="{y - 5:g}" text-anchor="end" class="halo">{call.method}</text></g>'


def _tag(y: float, text: str) -> Iterator[str]:
    if text:
        yield f'<text x="{EDGE}" y="{y + 4:g}" fill="{GRAY}">{html.escape(text)}</text>'


def _box(x: float, y: float, width: float, text: str) -> Iterator[str]:
    yield f'<rect x="{x:g}" y="{y:g}" width="{width:g}" height="{BOX_H}" rx="5" class="box"/>'
    middle = f'x="{x + width / 2:g}" y="{y + BOX_H / 2 + 4:g}"'
    yield f'<text {middle} text-anchor="middle">{html.escape(text)}</text>'


def _line(x: float, y: float, to_x: float, to_y: float, **how: object) -> str:
    dashes = ' stroke-dasharray="3 4"' if how.get("dashed") else ""
    ends = f'x1="{x:g}" y1="{y:g}" x2="{to_x:g}" y2="{to_y:g}"'
    return f'<line {ends} stroke="{how.get("color", GRAY)}"{dashes}/>'


def _svg(width: float, height: float, title: str, parts: Sequence[str]) -> str:
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {height:g}" '
        f'width="{width:g}" height="{height:g}" font-family="sans-serif" font-size="12">'
    )
    style = (
        f"<style>.box{{fill:{PALE};stroke:{BLUE}}}"
        ".halo{paint-order:stroke;stroke:#fff;stroke-width:4px}</style>"
    )
    paper = '<rect width="100%" height="100%" fill="#fff"/>'
    return "\n".join([head, f"<title>{title}</title>", style, paper, *parts, "</svg>"]) + "\n"


def stale() -> list[str]:
    """Return the names of the pictures that differ from the code."""
    return [
        name
        for name, text in pictures().items()
        if not (DOCS / name).exists() or (DOCS / name).read_text("utf-8") != text
    ]


def main() -> int:
    """Write the pictures, or compare them; return the exit status."""
    if "--check" in sys.argv[1:]:
        found = stale()
        for name in found:
            print(f"docs/{name} is stale: run python -m hack.docs.drawings")
        return int(bool(found))
    for name, text in pictures().items():
        (DOCS / name).write_text(text, "utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
