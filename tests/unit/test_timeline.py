"""How timelines are laid out, what is said to bound a phase, and whose time it was."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any
from xml.etree import ElementTree as ET

import pytest

from shim.model import Phase, Span, Speeds, Timeline
from shim.timeline import bars, terminal
from shim.timeline.bounds import bounds, shares
from shim.timeline.rows import covered, rows
from shim.timeline.style import Style
from shim.timeline.svg import svg

SPEEDS = Speeds(folder="/i", disk_write=1e9, disk_read=2e9, copy=10e9, fresh=2e9, digest=5e9)
SECOND = 1_000_000_000


def timeline(*spans: Span, total_s: float = 10.0, **more: Any) -> Timeline:
    """Make a timeline of a checkpoint."""
    began = datetime(2026, 11, 28, tzinfo=UTC)
    chosen: dict[str, Any] = {"operation": "checkpoint", "task": "a", "began_at": began} | more
    return Timeline(spans=spans, total_s=total_s, **chosen)


def parsed(picture: str) -> ET.Element:
    """Parse what we have drawn ourselves."""
    return ET.fromstring(picture)  # noqa: S314 - our own


def span(phase: Phase, start_s: float, duration_s: float, **more: Any) -> Span:
    """Make a span."""
    return Span(phase=phase, start_s=start_s, duration_s=duration_s, **more)


@pytest.mark.parametrize(
    ("segments", "drawn"),
    (
        ([(0, 10)], "=========="),
        ([(0, 5)], "=====     "),
        ([(5, 5)], "     ====="),
        ([(0, 1), (8, 1)], "=       = "),
        # What is too short to be seen is seen, also at the very end.
        ([(2.5, 0.0001)], "  =       "),
        ([(10, 0)], "         ="),
        ([(9.99, 5)], "         ="),
        ([], "          "),
    ),
)
def test_bars(segments: list[tuple[float, float]], drawn: str) -> None:
    """A bar is where its part was, and never beyond the line."""
    assert bars.bar(segments, 10, 10, Style(unicode=False)) == drawn


def test_an_operation_without_a_duration_can_be_drawn() -> None:
    """A bar of no time is at the start."""
    assert bars.cells([(0, 0)], 0.0, 3) == [True, False, False]


def test_parts_that_overlap_count_once() -> None:
    """Processes that are frozen side by side do not add up."""
    assert covered([(0, 2), (1, 2), (1.5, 0.5), (5, 1)]) == 4


def test_rows_of_a_phase() -> None:
    """A phase has its commands and processes below it, each once, with what was done."""
    found = rows(
        timeline(
            span(Phase.PREFLIGHT, 0, 0.5),
            span(Phase.PREFLIGHT, 1, 0.5),
            span(Phase.PREFLIGHT, 1, 0.2, name="runsc exec"),
            span(Phase.PREFLIGHT, 1.2, 0.2, name="runsc exec"),
            span(Phase.FREEZE, 2, 2),
            span(Phase.LOCK, 2, 1, pid=7, container="w"),
            span(Phase.FREEZE, 3, 1, pid=7, container="w"),
            span(Phase.FREEZE, 3, 0.5, pid=8),
        )
    )

    assert [(row.label, row.depth, row.count, round(row.seconds, 3)) for row in found] == [
        ("preflight", 0, 1, 1.0),
        ("runsc exec", 1, 2, 0.4),
        ("freeze", 0, 1, 2.0),
        ("process 7 of w lock, freeze", 1, 1, 2.0),
        ("process 8", 1, 1, 0.5),
    ]


def test_many_processes_are_the_longest_and_the_others() -> None:
    """A drawing stays small: the longest processes are in it, and how many others there are."""
    processes = [span(Phase.FREEZE, 0, number / 20, pid=number) for number in range(1, 21)]

    found = rows(timeline(span(Phase.FREEZE, 0, 2), *processes))

    assert [row.label for row in found[1:]] == [
        *(f"process {number}" for number in range(14, 21)),
        "13 other processes",
    ]


@pytest.mark.parametrize(
    ("seconds", "text"),
    (
        (1.0, "954 MiB at 1.0 GB/s: bound by the disk, 100% of what this disk writes"),
        (0.5, "954 MiB at 2.0 GB/s: through the page cache, 200% of what this disk writes"),
        (4.0, "954 MiB at 250 MB/s: bound by runsc, 25% of what this disk writes"),
    ),
)
def test_what_bounds_a_save(seconds: float, text: str) -> None:
    """It is compared with the disk, and with a copy in memory."""
    (bound,) = bounds(timeline(span(Phase.SAVE, 0, seconds), size_bytes=SECOND), SPEEDS)

    assert bound.text.replace("953.7", "954").startswith(text)
    assert "of a copy in memory (10.0 GB/s)" in bound.text
    assert bound.bytes_per_s == pytest.approx(SECOND / seconds)


def test_what_the_builtin_engine_does_is_part_of_the_save() -> None:
    """Its phases only check states, so no rate of GPU memory is made of them."""
    found = bounds(
        timeline(
            span(Phase.FREEZE, 0, 1),
            span(Phase.SAVE, 1, 1),
            span(Phase.THAW, 2, 1),
            engine="builtin",
            size_bytes=SECOND,
            gpu_bytes=SECOND,
        ),
        SPEEDS,
    )

    assert [bound.bytes_per_s is None for bound in found] == [True, False, True]
    assert "lock, freeze and thaw are part of it" in found[1].text


def test_what_bounds_a_freeze() -> None:
    """The CUDA calls, their longest, and the memory that is filled."""
    (bound,) = bounds(
        timeline(
            span(Phase.FREEZE, 0, 2),
            span(Phase.FREEZE, 0.1, 1.9, name="runsc exec"),
            span(Phase.LOCK, 0.5, 0.5, pid=7),
            span(Phase.FREEZE, 1, 1, pid=7),
            span(Phase.FREEZE, 1, 0.5, pid=8),
            gpu_bytes=SECOND,
        ),
        SPEEDS,
    )

    assert "CUDA calls 75%, 2 processes, longest freeze 1.00 s (process 7)" in bound.text
    assert "1 command 95%" in bound.text
    assert "25% of filling new memory" in bound.text


def test_a_failed_operation_has_no_rates() -> None:
    """What a phase that failed has moved is not known."""
    failed = timeline(span(Phase.SAVE, 0, 1), size_bytes=SECOND, gpu_bytes=SECOND, error="no")

    assert [bound.bytes_per_s for bound in bounds(failed, SPEEDS)] == [None]


def test_a_phase_that_is_too_short_is_not_explained() -> None:
    """Only what matters is."""
    assert bounds(timeline(span(Phase.COMMIT, 0, 0.01)), SPEEDS) == []


def test_an_image_that_was_not_read_again() -> None:
    """A verification that is faster than the hash has read no bytes."""
    (bound,) = bounds(timeline(span(Phase.VERIFY, 0, 0.1), total_s=1, size_bytes=SECOND), SPEEDS)

    assert bound.text.endswith("verified before on this host, and not read again")


def test_whose_time_it_was() -> None:
    """What no program, no hash and no hook used is ours, and the parts are the whole."""
    found = shares(
        timeline(
            span(Phase.PREFLIGHT, 0, 1),
            span(Phase.PREFLIGHT, 0.25, 0.5, name="runsc exec"),
            span(Phase.PRE_FREEZE, 1, 1),
            span(Phase.SAVE, 2, 4),
            span(Phase.SAVE, 2, 4, name="runsc checkpoint"),
            span(Phase.FREEZE, 3, 1, pid=7),
            span(Phase.SEAL, 6, 2),
        )
    )

    assert (found.commands_s, found.cuda_s, found.files_s, found.hooks_s) == (4.5, 1.0, 2.0, 1.0)
    assert found.own_s == 2.5


@pytest.mark.parametrize("width", (20, 60, 80, 120, 400))
@pytest.mark.parametrize("style", (Style(), Style(unicode=False)))
def test_lines_fit(width: int, style: Style) -> None:
    """No line is longer than the terminal, between 60 and 120 columns."""
    drawn = timeline(
        span(Phase.FREEZE, 0, 2),
        span(Phase.FREEZE, 0, 2, pid=7, container="c" * 100),
        span(Phase.SAVE, 2, 8, name="runsc checkpoint"),
        span(Phase.SAVE, 2, 8),
        size_bytes=SECOND,
        image_path="/" + "x" * 300,
        error="it failed " * 30,
        notes=("because " * 30,),
    )

    text = terminal.text([drawn], SPEEDS, style, width)

    assert max(map(len, text.splitlines())) <= max(60, min(width, 120))
    assert text.isascii() or style.unicode


def test_hostile_text_is_escaped() -> None:
    """Neither a terminal nor a viewer of SVG executes what a name contains."""
    hostile = "<script>\x1b[2J&"
    drawn = timeline(
        span(Phase.SAVE, 0, 1), span(Phase.SAVE, 0, 1, pid=7, container=hostile), task=hostile
    )

    text, picture = terminal.text([drawn], None, Style()), svg([drawn], None)

    assert "\x1b" not in text + picture
    assert "<script" not in picture
    assert "script" not in {one.tag.rpartition("}")[2] for one in parsed(picture).iter()}


def test_the_bars_of_an_svg() -> None:
    """There is a rectangle for each segment, inside the picture."""
    drawn = timeline(span(Phase.PREFLIGHT, 0, 1), span(Phase.SAVE, 1, 8), span(Phase.SAVE, 9.99, 5))

    root = parsed(svg([drawn, drawn], SPEEDS))

    bars_ = [one for one in root.iter() if one.get("class") in {"phase", "part"}]
    assert len(bars_) == 6
    assert all(float(b.get("x", 0)) + float(b.get("width", 0)) <= 960 for b in bars_)
