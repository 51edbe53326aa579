"""hack/bench: the samples, the results, the tables, the plots, the goals and the comparison."""

from __future__ import annotations

import itertools
import xml.etree.ElementTree as ET
from pathlib import Path

import msgspec
import pytest

from hack.bench import cases, check, dirty, goals, plot, report, result
from hack.bench.effort import Effort
from hack.bench.goals import Bound, Goal
from hack.bench.plot import Plot
from hack.bench.plots import PLOTS
from hack.bench.result import Result, Source
from hack.bench.row import Row, added, missing, ms, ratio, row
from hack.bench.turns import by_turns, turned

ROWS = {
    "restore.256.plain": ms([0.2, 0.1, 0.3]),
    "restore.256.ratio": ratio([0.22], [0.2]),
    "restore.0.plain": ms([0.12]),
    "restore.0.criu": missing("ms", "no CRIU"),
    "exit.0.plain": ms([0.1]),
    "restore.1024.plain": Row(value=1.0, unit="ms", source="old"),
}


# Samples.


def test_a_row_is_the_median_with_its_spread() -> None:
    """It says how many samples there were, and has four digits."""
    found = row([3.0, 1.23456, 2.0, 5.0], "s", "note")

    assert found == Row(value=2.5, unit="s", min=1.235, max=5.0, n=4, note="note")


def test_ratios_are_those_of_the_rounds() -> None:
    """Not the ratio of the medians: what disturbs a round affects both."""
    assert ratio([2.0, 30.0, 4.0], [1.0, 30.0, 2.0]).value == 2.0
    assert added([0.02, 0.3], [0.01, 0.3]) == ms([0.01, 0.0])


def test_there_is_no_row_without_a_sample() -> None:
    """A case that measured nothing fails."""
    with pytest.raises(ValueError, match="sample"):
        row([], "ms")


def test_the_order_of_the_ways_turns() -> None:
    """Each way is first as often as the others."""
    seen: list[str] = []

    def way(name: str) -> float:
        seen.append(name)
        return float(len(seen))

    ways = {"a": lambda: way("a"), "b": lambda: way("b")}
    found = by_turns(ways, range(2), warm_up=True)

    assert seen == ["a", "b", "a", "b", "b", "a"]
    assert found == {"a": [3.0, 6.0], "b": [4.0, 5.0]}
    assert turned("abc", 2) == ["c", "a", "b"]


def test_rounds_end_with_the_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three are measured in any case, and two with --quick."""
    clock = itertools.count(0.0, 10.0)
    monkeypatch.setattr("time.monotonic", lambda: next(clock))

    assert list(Effort(100.0).rounds(50, 0.5)) == [0, 1, 2, 3, 4, 5, 6, 7]
    assert list(Effort(0.0).rounds(50)) == [0, 1, 2]
    assert list(Effort(100.0, quick=True).rounds(50)) == [0, 1]
    assert list(Effort(1e9).rounds(4)) == [0, 1, 2, 3]


def test_the_budgets_fit_into_the_limit() -> None:
    """The whole run ends in 30 minutes; each case has its module."""
    assert sum(case.budget_s for case in cases.CASES.values()) <= cases.LIMIT_S
    folder = Path(cases.__file__).parent
    assert all((folder / f"{name}.py").exists() for name in cases.CASES)


# Results.


def some(rows: dict[str, Row], date: str = "2026-12-01", **sources: Source) -> Result:
    """Return results of these rows."""
    machine = {"cores": "2 cores"}
    return Result(machine=machine, date=date, command="make bench", rows=rows, sources=sources)


def test_results_are_read_as_they_were_written(tmp_path: Path) -> None:
    """A row is one line, so that a difference shows what has changed."""
    path = tmp_path / "new" / "results.json"
    found = some(ROWS, old=Source("H100", "2026-11-27", "run.sh"))

    result.write(found, path)

    assert result.read(path) == found
    lines = path.read_text("utf-8").splitlines()
    assert sum('"restore.' in line for line in lines) == 5


def test_a_row_names_a_source_that_is_there(tmp_path: Path) -> None:
    """Otherwise it is not known where it was measured."""
    path = tmp_path / "results.json"
    path.write_bytes(msgspec.json.encode(some(ROWS)))

    with pytest.raises(ValueError, match="no source old"):
        result.read(path)


def test_rows_that_are_not_measured_again_keep_their_date() -> None:
    """A run of some cases replaces theirs, and the rest is of the run before."""
    h100 = Source("H100", "2026-11-27", "run.sh")
    old = some({"a": Row(value=1), "b": Row(value=2), "c": Row(value=3, source="h")}, h=h100)
    new = some({"a": Row(value=9)}, "2026-12-02")

    found = result.merged(old, new)

    before = Source("2 cores", "2026-12-01", "make bench")
    assert found.rows == {
        "a": Row(value=9),
        "b": Row(value=2, source="2026-12-01"),
        "c": Row(value=3, source="h"),
    }
    assert found.sources == {"h": h100, "2026-12-01": before}
    assert result.merged(found, some({"b": Row(value=1)})).sources.keys() == {"h", "2026-12-02"}


def test_two_runs_of_one_day_stay_apart() -> None:
    """The rows of each keep its machine and command."""
    first = some({"a": Row(value=1), "b": Row(value=2), "c": Row(value=3)})
    second = msgspec.structs.replace(some({"a": Row(value=4)}), command="make bench again")
    third = msgspec.structs.replace(some({"c": Row(value=5)}), command="once more")

    found = result.merged(result.merged(first, second), third)

    assert {key: row.source for key, row in found.rows.items()} == {
        "a": "2026-12-01-2",
        "b": "2026-12-01",
        "c": "",
    }
    assert found.sources["2026-12-01"].command == "make bench"
    assert found.sources["2026-12-01-2"].command == "make bench again"


# Tables.


def test_a_table_has_a_row_for_each_point() -> None:
    """In order, with the spread, the number of samples, and why something is not there."""
    assert report.table("restore", ROWS) == [
        "| | plain, ms | ratio | criu, ms | n |",
        "|---|---|---|---|---|",
        "| 0 | 120 |  | no CRIU | 1 |",
        "| 256 | 200 (100 to 300) | 1.1 |  | 3 |",
        "| 1024 | 1 |  |  |  |",
    ]
    assert report.table("warm", ROWS) == ["Not measured."]


def test_a_block_of_the_document_is_written_from_the_results() -> None:
    """The rest of the document stays."""
    text = "a\n<!-- bench: exit -->\nold\n<!-- end of exit -->\nb\n"

    drawn = report.drawn(text, some(ROWS))

    assert "old" not in drawn
    assert "| 0 | 100 | 1 |" in drawn
    assert (drawn[:2], drawn[-2:]) == ("a\n", "b\n")
    assert report.drawn(drawn, some(ROWS)) == drawn


def test_a_table_says_which_rows_are_of_another_run() -> None:
    """Those that were measured at another time or on another machine."""
    text = "<!-- bench: restore -->\n<!-- end of restore -->\n"
    results = some(ROWS, old=Source("1 core", "2026-11-27", "make bench"))

    assert "1024: 2026-11-27, 1 core, `make bench`." in report.drawn(text, results)


def test_the_document_shows_every_case() -> None:
    """Each table has its block, and each plot its picture."""
    names = {match["name"] for match in report.BLOCK.finditer(report.DOCUMENT.read_text("utf-8"))}

    assert names == {
        *("conditions", "goals"),
        *(key for case in cases.CASES.values() for key in case.keys),
    }
    for name, text in report.plots(result.read()).items():
        path = report.DOCUMENT.parent / f"performance-{name}.svg"
        assert path.read_text("utf-8") == text, "run python -m hack.figures"


# Plots.


def test_a_plot_has_a_curve_for_each_column() -> None:
    """It is well-formed, and its curves begin with the least point."""
    wanted = Plot("restore", "Restore & more", "MiB", "ms", (("plain", "runsc"), ("none", "x")))

    root = ET.fromstring(plot.svg(wanted, ROWS))  # noqa: S314  # it is ours

    lines = [one.get("points") for one in root.iter("{http://www.w3.org/2000/svg}polyline")]
    assert lines[1] == ""
    assert len((lines[0] or "").split()) == 3
    assert plot.svg(Plot("none", "", "", "", (("plain", ""),)), ROWS) == ""


@pytest.mark.parametrize(("least", "step"), ((0.3, 0.5), (1.0, 1.0), (13.0, 20.0), (999.0, 1000.0)))
def test_the_steps_of_an_axis_are_round(least: float, step: float) -> None:
    """One, two or five, and a power of ten."""
    assert plot.nice(least) == pytest.approx(step)


def test_plots_are_of_cases() -> None:
    """A renamed case does not lose its picture silently."""
    keys = {key for case in cases.CASES.values() for key in case.keys}

    assert set(PLOTS) == {one.case for one in PLOTS.values()}
    assert set(PLOTS) <= keys


# Goals.


def test_a_goal_is_reached_by_one_of_its_bounds() -> None:
    """One that was not measured is neither reached nor missed."""
    goal = Goal("restore", (Bound("restore.256.ratio", 1.03), Bound("restore.256.added", 10.0)))

    assert goals.reached(goal, {"restore.256.ratio": Row(value=1.1)}) is False
    more = {"restore.256.ratio": Row(value=1.1), "restore.256.added": Row(value=9.0)}
    assert goals.reached(goal, more) is True
    assert goals.reached(goal, {}) is None
    assert goals.reached(goal, {"restore.256.ratio": missing("ratio", "no runsc")}) is None


def test_goals_are_shown_with_what_was_measured() -> None:
    """All of them, in a table."""
    lines = goals.lines({"run.true.ratio": Row(value=0.9, unit="ratio")})

    assert len(lines) == len(goals.GOALS) + 2
    assert "| `ctr run --rm` beside gVisor's shim | 0.85 | 0.9 | **not reached** |" in lines


# The comparison with the committed results.


def test_only_ratios_that_grow_fail() -> None:
    """Times depend on the machine, and rows from elsewhere are of another one."""
    old = {
        "a": Row(value=1.0, unit="ratio"),
        "b": Row(value=1.0, unit="ratio"),
        "c": Row(value=1.0, unit="ms"),
        "d": Row(value=1.0, unit="ratio", source="old"),
        "e": Row(value=2.0, unit="ratio"),
        "f": missing("ratio", "no CRIU"),
    }
    new = {
        "a": Row(value=1.21, unit="ratio"),
        "b": Row(value=1.19, unit="ratio"),
        "c": Row(value=9.0, unit="ms"),
        "d": Row(value=9.0, unit="ratio"),
        "e": Row(value=1.0, unit="ratio"),
        "f": Row(value=1.0, unit="ratio"),
        "g": Row(value=1.0, unit="ratio"),
    }

    assert list(check.worse(old, new)) == ["a: 1.21, committed 1: 21% worse"]
    assert list(check.better(old, new)) == ["e: 1, committed 2: 50% better"]
    assert check.compared(old, new) == 3


# The limit of dirty memory.


@pytest.mark.parametrize(
    ("before", "written"),
    (
        ({"dirty_bytes": "0\n", "dirty_ratio": "20\n"}, ("dirty_ratio", "20\n")),
        ({"dirty_bytes": "4096\n", "dirty_ratio": "0\n"}, ("dirty_bytes", "4096\n")),
    ),
)
def test_the_limit_of_dirty_memory_is_put_back(
    tmp_path: Path, before: dict[str, str], written: tuple[str, str]
) -> None:
    """Also after a failure; what was in use is written last, as the kernel forgets the other."""
    for name, text in before.items():
        (tmp_path / name).write_text(text, "ascii")

    def fail() -> None:
        with dirty.limited(128 << 20, tmp_path):
            assert (tmp_path / "dirty_bytes").read_text("ascii") == str(128 << 20)
            (tmp_path / written[0]).write_text("0", "ascii")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()

    assert (tmp_path / written[0]).read_text("ascii") == written[1]
