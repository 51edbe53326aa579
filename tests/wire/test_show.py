"""Columns, sizes and progress as a person sees them."""

from __future__ import annotations

import io

import click
import pytest

from shim.entry.cli.params import DURATION, SIGNAL
from shim.entry.cli.progress import Bar, Lines
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
    report.close()

    assert out.getvalue().splitlines() == [
        "[   0.25s] lock      process 7 locked",
        "[   0.80s] freeze    process 7 checkpointed in 0.51 s",
        "[   1.00s] save",
        "[   2.00s] save      warning: cut",
    ]


def test_a_bar_for_a_terminal() -> None:
    """One line is drawn over and over, warnings stay above it, and the end leaves none of it."""
    out = io.StringIO()
    report = Bar(out)
    report(SAVE)
    report(Progress(phase=Phase.SAVE, message="cut", warning=True))
    report.close()
    text = out.getvalue()

    assert "[##################......] 3.0 GiB of 4.0 GiB" in text
    assert text.count("\n") == 1
    assert "warning: cut\n" in text
    assert text.endswith("\r\x1b[K")


def test_a_bar_is_not_drawn_for_every_byte() -> None:
    """Frequent updates are drawn ten times a second."""
    out = io.StringIO()
    report = Bar(out)
    for _ in range(1000):
        report(SAVE)

    assert out.getvalue().count("\r") < 20
