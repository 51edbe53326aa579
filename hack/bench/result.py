"""The file with all figures: what this suite measured, and rows with a source of their own."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from pathlib import Path

import msgspec

from hack.bench.row import Row, Rows

ROOT = Path(__file__).resolve().parents[2]
COMMITTED = ROOT / "docs" / "performance.json"


class Source(msgspec.Struct, frozen=True):
    """Where, when and how rows were measured."""

    machine: str
    date: str
    command: str


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """All rows; those without a source of their own are of this machine, date and command."""

    machine: dict[str, str]
    date: str
    command: str
    sources: dict[str, Source] = {}
    rows: Rows = {}


def read(path: Path = COMMITTED) -> Result:
    """Return the results of a file.

    Raises:
        ValueError: a row names a source that is not there.
    """
    result = msgspec.json.decode(path.read_bytes(), type=Result)
    unknown = {row.source for row in result.rows.values()} - {"", *result.sources}
    if unknown:
        message = f"{path.name}: no source {', '.join(sorted(unknown))}"
        raise ValueError(message)
    return result


def write(result: Result, path: Path) -> None:
    """Write results, a row on each line."""
    rows = [f"    {_text(key)}: {_text(each)}" for key, each in sorted(result.rows.items())]
    sources = [f"    {_text(key)}: {_text(one)}" for key, one in sorted(result.sources.items())]
    head = [
        f'  "{name}": {_text(getattr(result, name))},' for name in ("machine", "date", "command")
    ]
    lines = [
        "{",
        *head,
        '  "sources": {',
        ",\n".join(sources),
        "  },",
        '  "rows": {',
        ",\n".join(rows),
        "  }",
        "}",
        "",
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines), "utf-8")


def merged(old: Result, new: Result) -> Result:
    """Return the new results, with those of the old rows that were not measured again.

    They keep their source, or get the old machine, date and command as theirs.
    """
    kept = {key: row for key, row in old.rows.items() if key not in new.rows}
    machine = ", ".join(old.machine.values())
    earlier = Source(machine=machine, date=old.date, command=old.command)
    name = _name_of(earlier, old.sources)
    rows = {
        key: row if row.source else msgspec.structs.replace(row, source=name)
        for key, row in kept.items()
    }
    sources = {**old.sources, name: earlier}
    used = {row.source for row in rows.values()}
    return msgspec.structs.replace(
        new,
        rows={**rows, **new.rows},
        sources={key: one for key, one in sources.items() if key in used},
    )


def _name_of(source: Source, known: Mapping[str, Source]) -> str:
    """Return a name for a source: its date, and a number if another one of that day has it."""
    names = itertools.chain(
        [source.date], (f"{source.date}-{number}" for number in itertools.count(2))
    )
    return next(name for name in names if known.get(name, source) == source)


def of(row: Row, result: Result) -> str:
    """Return in words where, when and how a row was measured."""
    if row.source:
        source = result.sources[row.source]
        return f"{source.machine}, {source.date}, {source.command}"
    return f"{', '.join(result.machine.values())}, {result.date}, {result.command}"


def _text(value: object) -> str:
    return msgspec.json.format(msgspec.json.encode(value), indent=0).decode()
