"""A timeline as lines of text: a bar for each row, and what bounds each phase."""

from __future__ import annotations

from collections.abc import Sequence
from textwrap import wrap

from shim.host.sizes import size
from shim.host.text import printable
from shim.model import Speeds, Timeline
from shim.timeline import bars
from shim.timeline.bounds import bounds, shares, speed
from shim.timeline.rows import Row, rows
from shim.timeline.style import Style, duration

_LABEL = 26
_TIME = 9
_SHARE = 6
_NARROW, _WIDE = 60, 120
_WHEN = "%Y-%m-%d %H:%M:%S UTC"
_FIGURES = (
    ("disk writes", "disk_write"),
    ("disk reads", "disk_read"),
    ("copy in memory", "copy"),
    ("new memory", "fresh"),
    ("hash", "digest"),
)


def text(
    timelines: Sequence[Timeline], speeds: Speeds | None, style: Style, width: int = 80
) -> str:
    """Draw operations below each other, and below them what the machine can do."""
    width = max(_NARROW, min(_WIDE, width))
    drawn = ["\n".join(_lines(one, speeds, style, width)) for one in timelines]
    if speeds is not None:
        drawn.append("\n".join(map(style.dim, wrap(machine(speeds), width))))
    return "\n\n".join(drawn)


def _lines(timeline: Timeline, speeds: Speeds | None, style: Style, width: int) -> list[str]:
    return [
        *_head(timeline, style, width),
        "",
        *(_row(row, timeline, style, width) for row in rows(timeline)),
        "",
        *_bounds(timeline, speeds, width),
        *_shares(timeline, style, width),
    ]


def title(timeline: Timeline) -> str:
    """Return what the operation was, and how long it took."""
    parts = [f"{timeline.operation} of {timeline.task}", duration(timeline.total_s)]
    if timeline.frozen_s:
        parts.append(f"frozen {duration(timeline.frozen_s)}")
    if timeline.size_bytes:
        parts.append(size(timeline.size_bytes))
    if timeline.gpu_bytes:
        parts.append(f"{size(timeline.gpu_bytes)} of GPU memory")
    if timeline.engine:
        parts.append(f"engine {timeline.engine}")
    return printable(", ".join(parts))


def details(timeline: Timeline) -> list[str]:
    """Return the lines below the title: when, which image, what was chosen, and what failed."""
    when = timeline.began_at.strftime(_WHEN)
    found = [f"{when}  {timeline.image_path}".rstrip(), *timeline.notes]
    if timeline.error:
        found.append(f"failed: {timeline.error}")
    if timeline.partial:
        found.append("up to the seal; the end of the checkpoint is not recorded in this image")
    return [printable(line) for line in found]


def machine(speeds: Speeds) -> str:
    """Return what the machine can do, on one line."""
    known = [
        f"{name} {speed(value)}"
        for name, field in _FIGURES
        if (value := getattr(speeds, field)) is not None
    ]
    return printable(f"this machine now, {speeds.folder}: {', '.join(known)}")


def summary(timeline: Timeline) -> str:
    """Say whose time it was."""
    found = shares(timeline)
    total = found.total_s or 1.0
    parts = [("runsc and other programs", found.commands_s), ("Cryoshim itself", found.own_s)]
    if found.files_s:
        parts.insert(1, ("hashing, syncing, reading", found.files_s))
    if found.hooks_s:
        parts.insert(1, ("hooks", found.hooks_s))
    said = ", ".join(f"{name} {duration(s)} ({s / total:.0%})" for name, s in parts)
    cuda = f"; CUDA calls within it {duration(found.cuda_s)}" if found.cuda_s else ""
    return f"{said}{cuda}"


def _head(timeline: Timeline, style: Style, width: int) -> list[str]:
    first, *more = wrap(title(timeline), width)
    below = [part for line in details(timeline) for part in wrap(line, width)]
    return [style.strong(first), *map(style.strong, more), *map(style.dim, below)]


def _row(row: Row, timeline: Timeline, style: Style, width: int) -> str:
    label = printable("  " * row.depth + row.label + (f" x{row.count}" if row.count > 1 else ""))
    if len(label) > _LABEL - 1:
        label = label[: _LABEL - 2] + ("…" if style.unicode else "~")
    room = width - _LABEL - _TIME - _SHARE
    color = bars.PART if row.depth else bars.PHASE
    drawn = bars.bar(row.segments, timeline.total_s, room, style, color)
    share = f"{row.seconds / timeline.total_s:.0%}" if timeline.total_s else ""
    left = f"{label:<{_LABEL}}"
    right = f"{duration(row.seconds):>{_TIME}}{share:>{_SHARE}}"
    return f"{style.dim(left) if row.depth else left}{drawn}{right}"


def _bounds(timeline: Timeline, speeds: Speeds | None, width: int) -> list[str]:
    found = []
    for bound in bounds(timeline, speeds):
        first, *more = wrap(printable(bound.text), width - 12) or [""]
        found.append(f"{bound.phase:<12}{first}")
        found += [f"{'':<12}{part}" for part in more]
    return found


def _shares(timeline: Timeline, style: Style, width: int) -> list[str]:
    return [style.strong(part) for part in wrap(summary(timeline), width)]
