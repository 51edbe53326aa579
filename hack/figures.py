"""Write the figures of README.md and docs/*.md from docs/performance.json; with --check, compare.

    python -m hack.figures [--check]
    python -m hack.figures --record NAME --machine M --date D --command C docs/gpu-results.md

A figure stands between comments that name its row:

    it takes <!--fig:restore.1024.added-->12.3 ms<!--/--> longer

or in a table, whose rows and columns are then part of the key: `restore.1024.plain` here.

    <!--figs:restore-->

    | MiB | plain | ours |
    |---|---|---|
    | 1024 | 497.3 | 525.5 |

A figure has as many decimals as stood there before. What looks like a measurement and is none,
such as a limit, a default or a setting, stands between <!--set--> and <!--/-->. Code is left alone.

--record puts what these documents say into the JSON file, for figures that the suite cannot make.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import msgspec

from hack import marks
from hack.bench import report, result
from hack.bench.row import Row

ROOT = Path(__file__).resolve().parents[1]


def documents() -> list[Path]:
    """Return the documents that have figures."""
    return [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def filled(rows: Mapping[str, Row]) -> marks.Visit:
    """Return the visit that writes the value of each row."""

    def visit(key: str, text: str, unit: str) -> str:
        row = rows.get(key)
        if row is None:
            message = f"{key} is not in {result.COMMITTED.name}"
            raise marks.Wrong(message)
        if row.value is None:
            message = f"{key} has no value: {row.note}"
            raise marks.Wrong(message)
        number, own = marks.parsed(key, text)
        if (own or unit) not in ("", row.unit):
            message = f"{key} is in {row.unit or 'no unit'}, not in {own or unit}"
            raise marks.Wrong(message)
        decimals = len(number.partition(".")[2])
        return f"{row.value:{',' if ',' in number else ''}.{decimals}f}{f' {own}' if own else ''}"

    return visit


def mistakes(path: Path, found: result.Result) -> Iterator[str]:
    """Give what is wrong with the figures of a document, each with what to do."""
    text, name = path.read_text("utf-8"), path.relative_to(ROOT)
    try:
        if report.drawn(marks.rewritten(text, filled(found.rows)), found) != text:
            yield f"{name} differs from docs/performance.json: run python -m hack.figures"
    except marks.Wrong as wrong:
        yield f"{name}: {wrong}: measure it with hack/bench, or see --record of hack/figures.py"
    for number, figure in marks.unmarked(text):
        yield (
            f"{name}:{number}: {figure!r} has no source: write <!--fig:KEY-->{figure}<!--/--> with "
            f"a key of docs/performance.json (--record of hack/figures.py adds one), or "
            f"<!--set-->{figure}<!--/--> around a limit, a default or a setting"
        )
    for number, line in enumerate(text.split("\n"), 1):
        if re.match(r"\s*<!--(?:fig:|set)", line):
            yield f"{name}:{number}: a line that begins with a comment is HTML: put a word there"


def record(paths: Sequence[Path], name: str, old: result.Result) -> result.Result:
    """Return the results with the figures of documents that the suite has not measured."""
    rows, decimals = dict(old.rows), dict[str, int]()
    kept = {key for key, row in rows.items() if row.source != name}

    def visit(key: str, text: str, unit: str) -> str:
        number, own = marks.parsed(key, text)
        places = len(number.partition(".")[2])
        # A figure may stand in several places, rounded in some.
        if key not in kept and places > decimals.get(key, -1):
            decimals[key] = places
            value = float(number.replace(",", ""))
            known = rows[key].unit if key in rows else ""
            rows[key] = Row(value=value, unit=own or unit or known, source=name)
        return text

    for path in paths:
        marks.rewritten(path.read_text("utf-8"), visit)
    return msgspec.structs.replace(old, rows=rows)


def record_in(path: Path, paths: Sequence[Path], name: str, source: result.Source | None) -> None:
    """Put the figures of documents into a file of results, under a source that it knows or gets.

    Raises:
        marks.Wrong: the source is not known, or a figure cannot be read.
    """
    found = result.read(path)
    sources = dict(found.sources) | ({name: source} if source else {})
    if name not in sources:
        message = f"the source {name} is new: --machine, --date and --command describe it"
        raise marks.Wrong(message)
    found = record(paths, name, msgspec.structs.replace(found, sources=sources))
    result.write(found, path)


def write(paths: Sequence[Path] = ()) -> None:
    """Write the figures of documents, by default of all, and the plots.

    Raises:
        marks.Wrong: a key, a unit or a text is wrong.
    """
    found = result.read()
    for path in paths or documents():
        text = marks.rewritten(path.read_text("utf-8"), filled(found.rows))
        path.write_text(report.drawn(text, found), "utf-8")
    report.write_plots(found, result.COMMITTED.parent)


def main() -> int:
    """Write the figures, compare or record them; return the exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--check", action="store_true", help="change nothing; fail if stale")
    parser.add_argument("--record", metavar="SOURCE", help="record figures under this source")
    parser.add_argument("--machine")
    parser.add_argument("--date")
    parser.add_argument("--command")
    parser.add_argument("documents", nargs="*", type=Path)
    given = parser.parse_args()
    paths = [path.resolve() for path in given.documents] or documents()
    try:
        if given.record:
            facts = (given.machine, given.date, given.command)
            source = result.Source(*facts) if all(facts) else None
            record_in(result.COMMITTED, paths, given.record, source)
        if not given.check:
            write(paths)
    except marks.Wrong as wrong:
        print(f"hack.figures: {wrong}", file=sys.stderr)
        return 1
    lines = [line for path in paths for line in mistakes(path, result.read())]
    print("\n".join(lines), end="\n" if lines else "")
    return int(bool(lines))


if __name__ == "__main__":
    raise SystemExit(main())
