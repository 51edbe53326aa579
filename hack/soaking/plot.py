"""A plot of samples as SVG, with a curve for each resource."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from hack.soaking.gauge import ROOM, Sample

_WIDTH, _HEIGHT, _LEFT, _GAP = 640, 90, 110, 34
_TITLES = {
    "fds": "open files",
    "threads": "threads",
    "memory_mib": "memory, MiB",
    "mounts": "mounts",
    "files": "files on disk",
    "books": "table entries",
}


def svg(samples: Sequence[Sample], title: str) -> str:
    """Return the plot of some samples."""
    rows = [name for name in ROOM if any(getattr(one, name) for one in samples)]
    whole = _LEFT + _WIDTH + 20, 40 + len(rows) * (_HEIGHT + _GAP)
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {whole[0]} {whole[1]}">',
        "<style>text { font: 12px sans-serif }</style>",
        f'<rect width="{whole[0]}" height="{whole[1]}" fill="white"/>',
        f'<text x="{_LEFT}" y="20" font-size="14">{title}</text>',
    ]
    for row, name in enumerate(rows):
        lines += _curve(samples, name, 40 + row * (_HEIGHT + _GAP))
    return "\n".join([*lines, "</svg>", ""])


def _curve(samples: Sequence[Sample], name: str, top: int) -> Iterator[str]:
    values = [float(getattr(one, name)) for one in samples]
    most, last_s = max(1.0, *values) * 1.1, max(1.0, samples[-1].at_s)
    bottom = top + _HEIGHT
    points = " ".join(
        f"{_LEFT + _WIDTH * one.at_s / last_s:.1f},{bottom - _HEIGHT * value / most:.1f}"
        for one, value in zip(samples, values, strict=True)
    )
    yield f'<text x="4" y="{top + 14}">{_TITLES[name]}</text>'
    yield f'<text x="4" y="{top + 30}" fill="#666">{values[0]:g} to {values[-1]:g}</text>'
    yield f'<path d="M{_LEFT} {top}V{bottom}H{_LEFT + _WIDTH}" fill="none" stroke="#999"/>'
    yield f'<polyline points="{points}" fill="none" stroke="#1f6feb" stroke-width="1.5"/>'
    minutes = f"{last_s / 60:.0f} min"
    yield f'<text x="{_LEFT + _WIDTH}" y="{bottom + 14}" text-anchor="end">{minutes}</text>'
