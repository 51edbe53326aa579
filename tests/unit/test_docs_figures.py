"""Every figure in README and docs is a row of docs/performance.json, by hack/figures.py."""

from __future__ import annotations

from pathlib import Path

import pytest

from hack import figures, marks
from hack.bench import result
from hack.bench.result import Result, Source
from hack.bench.row import Row

ROWS = {
    "restore.1024.plain": Row(value=497.31, unit="ms"),
    "restore.1024.ratio": Row(value=1.055, unit="ratio"),
    "restore.0.plain": Row(value=1222.5, unit="ms"),
    "criu.0.runc": Row(note="no kernel support"),
}
TABLE = """\
<!--figs:restore-->

| MiB | plain | ratio | |
|---|---|---|---|
| 1024 | 0.0 | 0.00 | text |
| 0 | 1,000 ms |  | 7 of 9 |

| other | 1.5 |
"""


@pytest.mark.parametrize("path", figures.documents(), ids=lambda path: path.name)
def test_the_figures_of_a_document_are_those_of_the_results(path: Path) -> None:
    """A message says what differs or has no source, and what to write or run."""
    assert list(figures.mistakes(path, result.read())) == []


def test_every_row_has_a_known_source() -> None:
    """A source without a row is not kept either."""
    found = result.read()

    assert {row.source for row in found.rows.values()} - {""} == set(found.sources)


def fill(text: str) -> str:
    """Write the figures into a text."""
    return marks.rewritten(text, figures.filled(ROWS))


def test_a_figure_is_written_with_the_decimals_that_it_had() -> None:
    """The unit stays where it stands inside of the mark."""
    marks = "<!--fig:restore.1024.plain-->{}<!--/-->, <!--fig:restore.1024.ratio-->{}<!--/-->"

    assert fill(marks.format("1.5 ms", "9.99")) == marks.format("497.3 ms", "1.05")


def test_the_cells_of_a_table_are_figures() -> None:
    """The first cell of the row and the head of the column are part of the key."""
    filled = fill(TABLE)

    assert "| 1024 | 497.3 | 1.05 | text |" in filled
    assert "| 0 | 1,222 ms |  | 7 of 9 |" in filled
    assert filled.endswith("| other | 1.5 |\n")


@pytest.mark.parametrize(
    ("text", "why"),
    (
        ("<!--fig:restore.2.plain-->1<!--/-->", "restore.2.plain is not in"),
        ("<!--fig:restore.1024.plain-->1 s<!--/-->", "is in ms, not in s"),
        ("<!--fig:restore.1024.plain-->fast<!--/-->", "'fast' is not a number"),
        ("<!--fig:criu.0.runc-->1<!--/-->", "no value: no kernel support"),
        ("<!--figs:x-->\n\n| a | b |\n|--|--|\n| 1 | x |\n| 1 | x |", "two rows are called 1"),
        ("<!--figs:x-->\n\n| a | b | b |\n|--|--|--|\n", "two columns"),
    ),
)
def test_a_wrong_mark_is_named(text: str, why: str) -> None:
    """An unknown key, another unit, a text without a number, a row without a value."""
    with pytest.raises(marks.Wrong, match=why):
        fill(text)


@pytest.mark.parametrize(
    "text",
    (
        "it takes 12 ms",
        "2.3 times as long",
        "1.9 GB/s into memory",
        "3x faster",
        "it holds 8.6 MiB",
        "| a | 12.5 |",
        "<!--figs:restore-->\n\n| 1024 | 497.3 | in 3 s |",
    ),
)
def test_a_figure_without_a_mark_is_found(text: str) -> None:
    """In prose and in tables, with a unit or as a cell that is a decimal number."""
    assert list(marks.unmarked(text))


@pytest.mark.parametrize(
    "text",
    (
        "<!--fig:restore.1024.plain-->12 ms<!--/--> longer",
        "after <!--set-->120 s<!--/-->",
        "`save = 900 s`",
        "```text\n[0.1] 12 ms\n```",
        "    $ time x\n    12 ms\n",
        "a container of 256 MiB with 2 cores, on 2026-11-29, by runsc 20240729",
        "containerd 2.4 and Python 3.11",
        "<!--figs:restore-->\n\n| 1024 | 497.3 | 1.06 |\n",
    ),
)
def test_what_is_no_figure_needs_no_mark(text: str) -> None:
    """Marked figures and limits, code, sizes, dates and versions."""
    assert list(marks.unmarked(text)) == []


def test_figures_of_a_document_are_recorded_with_their_source(tmp_path: Path) -> None:
    """Rows from elsewhere are replaced with the most exact text; those of others are not."""
    document = tmp_path / "gpu.md"
    document.write_text(
        "a <!--fig:restore.1024.plain-->9 ms<!--/--> "
        "b <!--fig:h100.save-->3.78 s<!--/--> c <!--fig:h100.save-->3.8<!--/-->",
        "utf-8",
    )
    source = Source("H100", "2026-11-27", "run.sh")
    path = tmp_path / "results.json"
    result.write(Result(machine={}, date="", command="", rows=ROWS), path)

    figures.record_in(path, [document], "h100", source)

    found = result.read(path)
    assert found.sources == {"h100": source}
    assert found.rows == {**ROWS, "h100.save": Row(value=3.78, unit="s", source="h100")}


def test_a_new_source_is_described(tmp_path: Path) -> None:
    """Without machine, date and command nothing is recorded."""
    path = tmp_path / "results.json"
    result.write(Result(machine={}, date="", command=""), path)

    with pytest.raises(marks.Wrong, match="--machine"):
        figures.record_in(path, [], "h100", None)
