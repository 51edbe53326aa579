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
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import msgspec

from hack.bench import result
from hack.bench.row import RATIO, Row

ROOT = Path(__file__).resolve().parents[1]
FIGURE = re.compile(r"<!--fig:(?P<key>[^\s>]+)-->(?P<text>.*?)<!--/-->", re.DOTALL)
TABLE = re.compile(r"<!--figs:(?P<prefix>[^\s>]+)(?: unit=(?P<unit>[^\s>]+))?-->")
NUMBER = re.compile(r"^(?P<number>-?\d[\d,]*(?:\.\d+)?)(?: (?P<unit>\S+))?$")
_SET = re.compile(r"<!--set-->.*?<!--/-->", re.DOTALL)
_CODE = re.compile(r"^(```|~~~).*?^\1|^ {4,}\S[^\n]*$", re.MULTILINE | re.DOTALL)
_INLINE = re.compile(r"`[^`]*`")
_UNITS = "ms|µs|s|seconds|minutes|MiB/s|MB/s|GiB/s|GB/s|times"
MEASURED = re.compile(
    rf"(?<![\w.:-])\d[\d,]*(?:\.\d+)?(?:\s(?:{_UNITS})\b|x\b|\s?%)"
    r"|(?<![\w.:-])\d+\.\d+\s(?:[KMG]iB|[kMG]B)\b"
)
_DECIMAL = re.compile(r"^-?\d+\.\d+$")

# A key, the text that stands there and the unit of its table; returns what is to stand there.
Visit = Callable[[str, str, str], str]


class Wrong(Exception):
    """A document is not what it should be; the argument says where and what to do."""


def documents() -> list[Path]:
    """Return the documents that have figures."""
    return [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def slug(cell: str) -> str:
    """Return the part of a key for the first cell of a row, or the head of a column."""
    return re.sub(r"[^a-z0-9.]+", "-", FIGURE.sub("", cell).lower()).strip("-")


def rewritten(text: str, visit: Visit) -> str:
    """Return a document with each marked figure replaced by what `visit` returns."""
    lines = iter(FIGURE.sub(lambda m: _marked(m, visit), text).split("\n"))
    done = []
    for line in lines:
        done.append(line)
        if found := TABLE.search(line):
            done += _table(lines, found["prefix"], found["unit"] or "", visit)
    return "\n".join(done)


def _marked(match: re.Match[str], visit: Visit) -> str:
    key = match["key"]
    return f"<!--fig:{key}-->{visit(key, match['text'], '')}<!--/-->"


def _table(lines: Iterator[str], prefix: str, unit: str, visit: Visit) -> Iterator[str]:
    heads: list[str] = []
    seen: set[str] = set()
    for line in lines:
        if not line.startswith("|"):
            yield line
            if heads or line:
                return
            continue
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
        if not heads:
            heads = [slug(cell) for cell in cells]
        elif not set(line) <= set("|-: "):
            name = slug(cells[0])
            if name in seen:
                message = f"figs:{prefix}: two rows are called {name}"
                raise Wrong(message)
            seen.add(name)
            keys = [f"{prefix}.{name}.{head}" for head in heads]
            cells[1:] = [
                visit(key, cell, RATIO if "ratio" in key else unit) if NUMBER.match(cell) else cell
                for key, cell in zip(keys[1:], cells[1:], strict=True)
            ]
            line = f"| {' | '.join(cells)} |"  # noqa: PLW2901  # the rewritten line
        yield line


def filled(rows: Mapping[str, Row]) -> Visit:
    """Return the visit that writes the value of each row."""

    def visit(key: str, text: str, unit: str) -> str:
        row = rows.get(key)
        if row is None:
            message = f"{key} is not in {result.COMMITTED.name}"
            raise Wrong(message)
        if row.value is None:
            message = f"{key} has no value: {row.note}"
            raise Wrong(message)
        number, own = parsed(key, text)
        if (own or unit) not in ("", row.unit):
            message = f"{key} is in {row.unit or 'no unit'}, not in {own or unit}"
            raise Wrong(message)
        decimals = len(number.partition(".")[2])
        return f"{row.value:{',' if ',' in number else ''}.{decimals}f}{f' {own}' if own else ''}"

    return visit


def parsed(key: str, text: str) -> tuple[str, str]:
    """Split the text of a figure into number and unit."""
    if not (found := NUMBER.match(" ".join(text.split()))):
        message = f"{key}: {text!r} is not a number with an optional unit"
        raise Wrong(message)
    return found["number"], found["unit"] or ""


def unmarked(text: str) -> Iterator[tuple[int, str]]:
    """Give each measurement of a document that has no mark, with its line."""
    rest = _CODE.sub(_blank, text)
    for pattern in (FIGURE, _SET, _INLINE):
        rest = pattern.sub(_blank, rest)
    lines = iter(enumerate(rest.split("\n"), 1))
    in_table = False
    for number, line in lines:
        if TABLE.search(line):
            in_table = True
        elif in_table and line and not line.startswith("|"):
            in_table = False
        cells = line.strip().strip("|").split("|") if line.startswith("|") else []
        cells = [cell.strip() for cell in cells]
        if in_table and cells:
            rest_of_line = " | ".join([cells[0], *(c for c in cells[1:] if not NUMBER.match(c))])
        else:
            rest_of_line = line
            yield from ((number, cell) for cell in cells if _DECIMAL.match(cell))
        yield from ((number, found[0]) for found in MEASURED.finditer(rest_of_line))


def _blank(match: re.Match[str]) -> str:
    """Leave the lines of what is removed."""
    return "\n" * match[0].count("\n")


def mistakes(path: Path, rows: Mapping[str, Row]) -> Iterator[str]:
    """Give what is wrong with the figures of a document, each with what to do."""
    text, name = path.read_text("utf-8"), path.relative_to(ROOT)
    try:
        if rewritten(text, filled(rows)) != text:
            yield f"{name} differs from docs/performance.json: run python -m hack.figures"
    except Wrong as wrong:
        yield f"{name}: {wrong}: measure it with hack/bench, or see --record of hack/figures.py"
    for number, found in unmarked(text):
        yield (
            f"{name}:{number}: {found!r} has no source: write <!--fig:KEY-->{found}<!--/--> with a "
            f"key of docs/performance.json (--record of hack/figures.py adds one), or "
            f"<!--set-->{found}<!--/--> around a limit, a default or a setting"
        )
    for number, line in enumerate(text.split("\n"), 1):
        if re.match(r"\s*<!--(?:fig:|set)", line):
            yield f"{name}:{number}: a line that begins with a comment is HTML: put a word there"


def record(paths: Sequence[Path], name: str, old: result.Result) -> result.Result:
    """Return the results with the figures of documents that the suite has not measured."""
    rows, decimals = dict(old.rows), dict[str, int]()
    kept = {key for key, row in rows.items() if row.source != name}

    def visit(key: str, text: str, unit: str) -> str:
        number, own = parsed(key, text)
        places = len(number.partition(".")[2])
        # A figure may stand in several places, rounded in some.
        if key not in kept and places > decimals.get(key, -1):
            decimals[key] = places
            value = float(number.replace(",", ""))
            known = rows[key].unit if key in rows else ""
            rows[key] = Row(value=value, unit=own or unit or known, source=name)
        return text

    for path in paths:
        rewritten(path.read_text("utf-8"), visit)
    return msgspec.structs.replace(old, rows=rows)


def record_in(path: Path, paths: Sequence[Path], name: str, source: result.Source | None) -> None:
    """Put the figures of documents into a file of results, under a source that it knows or gets.

    Raises:
        Wrong: the source is not known, or a figure cannot be read.
    """
    found = result.read(path)
    sources = dict(found.sources) | ({name: source} if source else {})
    if name not in sources:
        message = f"the source {name} is new: --machine, --date and --command describe it"
        raise Wrong(message)
    found = record(paths, name, msgspec.structs.replace(found, sources=sources))
    result.write(found, path)


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
        rows = result.read().rows
        if not given.check:
            for path in paths:
                path.write_text(rewritten(path.read_text("utf-8"), filled(rows)), "utf-8")
    except Wrong as wrong:
        print(f"hack.figures: {wrong}", file=sys.stderr)
        return 1
    lines = [line for path in paths for line in mistakes(path, rows)]
    print("\n".join(lines), end="\n" if lines else "")
    return int(bool(lines))


if __name__ == "__main__":
    raise SystemExit(main())
