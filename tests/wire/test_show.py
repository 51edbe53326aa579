"""Columns, sizes and progress as a person sees them."""

from __future__ import annotations

import io

import click
import pytest

from shim.entry.cli.live import LiveProgress
from shim.entry.cli.params import DURATION, SIGNAL
from shim.entry.cli.progress import Lines
from shim.entry.cli.table import table
from shim.host.sizes import size
from shim.model import Phase, Progress

SAVE = Progress(phase=Phase.SAVE, bytes_done=3 << 30, bytes_total=4 << 30, elapsed_s=1.0)


def test_a_table_is_plain_columns() -> None:
    """Columns are as wide as their widest cell, and an empty one is a dash."""
    text = table(("A", "LONG"), [("wide one", 5), ("", "x\ny")])

    assert text.splitlines() == ["A           LONG", "wide one    5", "-           x y"]


@pytest.mark.parametrize(
    ("count", "text"),
    (
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.0 KiB"),
        (3 << 29, "1.5 GiB"),
        (1 << 52, "4.0 PiB"),
        (1 << 62, "4096.0 PiB"),
    ),
)
def test_sizes(count: int, text: str) -> None:
    """A size is in the largest unit that leaves it at least one."""
    assert size(count) == text


@pytest.mark.parametrize(
    ("text", "seconds"),
    (("30s", 30.0), ("500ms", 0.5), ("1m30s", 90.0), ("2.5", 2.5), ("1h", 3600.0), (".5s", 0.5)),
)
def test_durations(text: str, seconds: float) -> None:
    """Durations are written as ctr's are, or in plain seconds."""
    assert DURATION.convert(text, None, None) == seconds


@pytest.mark.parametrize("text", ("", "s", "1x", "-1s", "0s", "nan", "1 s", "1e3"))
def test_no_durations(text: str) -> None:
    """What is not clearly a time is refused."""
    with pytest.raises(click.BadParameter):
        DURATION.convert(text, None, None)


@pytest.mark.parametrize(("text", "number"), (("SIGKILL", 9), ("kill", 9), ("15", 15), ("64", 64)))
def test_signals(text: str, number: int) -> None:
    """Signals have names, with SIG or without, and numbers."""
    assert SIGNAL.convert(text, None, None) == number


@pytest.mark.parametrize("text", ("", "0", "65", "-9", "SIGSIGKILL", "kill9"))
def test_no_signals(text: str) -> None:
    """Numbers that are no signals, and names that are not, are refused."""
    with pytest.raises(click.BadParameter):
        SIGNAL.convert(text, None, None)


def test_lines_for_a_log() -> None:
    """Each phase, process and warning is a line; byte counts are not."""
    out = io.StringIO()
    report = Lines(out)
    for progress in (
        Progress(phase=Phase.LOCK, pid=7, pid_state="locked", elapsed_s=0.25),
        Progress(phase=Phase.FREEZE, pid=7, pid_state="checkpointed", took_s=0.514, elapsed_s=0.8),
        SAVE,
        SAVE,
        Progress(phase=Phase.SAVE, message="cut", warning=True, elapsed_s=2.0),
    ):
        report(progress)
    report.close(failed=False)

    assert out.getvalue().splitlines() == [
        "[   0.25s] lock      process 7 locked",
        "[   0.80s] freeze    process 7 checkpointed in 0.51 s",
        "[   1.00s] save",
        "[   2.00s] save      warning: cut",
    ]


def frame(*updates: Progress, failed: bool = False) -> list[str]:
    """Return the last frame of an operation, and what is printed above it, without blanks."""
    out = io.StringIO()
    report = LiveProgress(out)
    for progress in updates:
        report(progress)
    report.close(failed=failed)
    return [" ".join(line.split()) for line in out.getvalue().splitlines()]


def test_a_frame_for_a_terminal() -> None:
    """Each phase is a line with its time, each process one with its state; warnings are above."""
    lines = frame(
        Progress(phase=Phase.PREFLIGHT, elapsed_s=0.01),
        Progress(phase=Phase.LOCK, message="lock 2 processes", elapsed_s=0.25),
        Progress(phase=Phase.LOCK, pid=7, pid_state="locked", elapsed_s=0.5),
        Progress(phase=Phase.LOCK, pid=8, pid_state="locked", container="web", elapsed_s=0.5),
        Progress(phase=Phase.FREEZE, pid=7, pid_state="checkpointed", took_s=0.5, elapsed_s=1.0),
        Progress(phase=Phase.SAVE, message="cut", warning=True, elapsed_s=2.0),
        Progress(phase=Phase.SAVE, bytes_done=1 << 30, bytes_total=1 << 30, elapsed_s=3.0),
        Progress(phase=Phase.COMMIT, elapsed_s=4.5),
    )

    assert lines[0] == "warning: cut"
    assert lines[1:-3] == [
        "✓ preflight 0.24 s",
        "✓ lock 0.75 s lock 2 processes",
        "✓ freeze 1.00 s",
        "✓ save 2.50 s 1.0 GiB",
    ]
    assert lines[-3].startswith("✓ commit")
    assert lines[-2:] == ["process 7 checkpointed 0.50 s", "process 8 of web locked"]


def test_a_frame_of_a_failure() -> None:
    """The phase that failed is marked, and the rollback that followed it is not."""
    updates = (
        Progress(phase=Phase.PREFLIGHT, elapsed_s=0.1),
        Progress(phase=Phase.SAVE, elapsed_s=0.2),
        Progress(phase=Phase.ROLLBACK, message="no space left", elapsed_s=0.5),
    )

    above, *lines = frame(*updates, failed=True)

    assert above == "rollback: no space left"
    assert [line.split()[:2] for line in lines] == [
        ["✓", "preflight"],
        ["✗", "save"],
        ["✓", "rollback"],
    ]


def test_a_frame_of_many_processes() -> None:
    """The frame stays small: processes that moved last have a line, the others are counted."""
    moves = [Progress(phase=Phase.LOCK, pid=pid, pid_state="locked") for pid in range(1, 101)]

    *_, last, count = frame(*moves)

    assert (last, count) == ("process 100 locked", "and 84 more processes")
