"""Write the manual pages of `cryo`, one for each command, from the commands themselves.

    python -m hack.man build/man

The date of the pages is that of SOURCE_DATE_EPOCH, as in reproducible builds, or today.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from inspect import cleandoc
from pathlib import Path
from typing import NamedTuple

import click

from shim import __version__
from shim.config import DEFAULT_CONFIG
from shim.entry.cli import exits, selftest
from shim.entry.cli.app import cryo

SECTION = 1
_EXIT_CODE = re.compile(r"^    (\d+) +(\S.*)$", re.MULTILINE)
# What roff would read as a request or an escape.
_ESCAPES = str.maketrans({"\\": r"\(rs", "-": r"\-", "'": r"\(aq", "`": r"\(ga", "~": r"\(ti"})
_CODE = re.compile(r"`([^`]+)`")


class Page(NamedTuple):
    """The manual page of a command: the name of its file, and its text."""

    name: str
    text: str


def main(argv: list[str] | None = None) -> int:
    """Write all pages into a directory, which is created."""
    parser = argparse.ArgumentParser(description=cleandoc(__doc__ or "").splitlines()[0])
    parser.add_argument("directory", type=Path)
    directory = parser.parse_args(argv).directory
    directory.mkdir(parents=True, exist_ok=True)
    for page in pages():
        (directory / page.name).write_text(page.text, "utf-8")
    return 0


def pages() -> Iterator[Page]:
    """Return the page of `cryo` and of each of its commands."""
    given = os.environ.get("SOURCE_DATE_EPOCH")
    date = datetime.now(UTC) if given is None else datetime.fromtimestamp(int(given), UTC)
    for context in contexts():
        yield page(context, f"{date:%Y-%m-%d}")


def page(context: click.Context, date: str) -> Page:
    """Return the page of one command."""
    name = _name(context)
    title = f'.TH "{_roff(name.upper())}" {SECTION} {date} "cryo {__version__}" Cryoshim'
    return Page(f"{name}.{SECTION}", "\n".join([title, ".ad l", *_sections(context), ""]))


def contexts() -> Iterator[click.Context]:
    """Walk through the tree of commands, each after its group."""
    names = cryo.context_settings["help_option_names"]
    yield from _below(click.Context(cryo, info_name="cryo", help_option_names=names))


def _below(context: click.Context) -> Iterator[click.Context]:
    yield context
    command = context.command
    if not isinstance(command, click.Group):
        return
    for name in command.list_commands(context):
        found = command.get_command(context, name)
        if found is not None and not found.hidden:
            yield from _below(click.Context(found, info_name=name, parent=context))


def _name(context: click.Context) -> str:
    return context.command_path.replace(" ", "-")


def _sections(context: click.Context) -> Iterator[str]:
    command = context.command
    summary, *rest = _paragraphs(command.help or "")
    yield from (".SH NAME", rf"{_roff(_name(context))} \- {_roff(_lowered(summary))}")
    yield from (".SH SYNOPSIS", ".nh", f".B {_roff(context.command_path)}")
    yield from (_prose(" ".join(command.collect_usage_pieces(context))), ".hy")
    yield ".SH DESCRIPTION"
    yield from _joined([summary, *rest])
    yield from _list("OPTIONS", _option_rows(context))
    if isinstance(command, click.Group):
        yield from _list("COMMANDS", _command_rows(context, command))
    if context.parent is None:
        yield from _list("ENVIRONMENT", _environment(context))
        yield from _list("FILES", [(str(DEFAULT_CONFIG), "settings of the sidecar")])
    yield from _exit_status(context)
    yield from _see_also(context)


def _paragraphs(text: str) -> list[str]:
    return [" ".join(part.split()) for part in cleandoc(text).split("\n\n") if part.strip()]


def _lowered(summary: str) -> str:
    """Return a summary as the NAME section has it: its first sentence, in lower case."""
    first = summary.split(". ", maxsplit=1)[0].rstrip(".")
    return first[0].lower() + first[1:]


def _joined(paragraphs: Iterable[str]) -> Iterator[str]:
    for number, paragraph in enumerate(paragraphs):
        if number:
            yield ".PP"
        yield _prose(paragraph)


def _list(title: str, rows: Iterable[tuple[str, str]]) -> Iterator[str]:
    for number, (term, text) in enumerate(rows):
        if not number:
            yield f".SH {title}"
        yield from (".TP", rf"\fB{_roff(term)}\fR", _prose(text))


def _option_rows(context: click.Context) -> Iterator[tuple[str, str]]:
    for parameter in context.command.get_params(context):
        record = parameter.get_help_record(context)
        if record is not None and record[1]:
            yield record


def _command_rows(context: click.Context, group: click.Group) -> Iterator[tuple[str, str]]:
    for name in group.list_commands(context):
        found = group.get_command(context, name)
        if found is not None and not found.hidden:
            text = _paragraphs(found.help or "")[0]
            yield name, f"{text} See {_name(context)}-{name}({SECTION})."


def _environment(context: click.Context) -> Iterator[tuple[str, str]]:
    for parameter in context.command.params:
        if isinstance(parameter, click.Option) and isinstance(parameter.envvar, str):
            yield parameter.envvar, f"The same as {parameter.opts[-1]}, which has precedence."


def _exit_status(context: click.Context) -> Iterator[str]:
    """Return the exit codes that the module of the command lists, or refer to those of `cryo`."""
    if context.parent is None:
        yield from _list("EXIT STATUS", _EXIT_CODE.findall(exits.__doc__ or ""))
        return
    yield ".SH EXIT STATUS"
    module = sys.modules[getattr(context.command.callback, "__module__", __name__)]
    own = [] if module is selftest else _EXIT_CODE.findall(module.__doc__ or "")
    for code, text in own:
        yield from (".TP", rf"\fB{code}\fR", _prose(text))
    if own:
        yield ".PP"
    yield _prose(f"{'Otherwise as' if own else 'As'} listed in cryo({SECTION}).")


def _see_also(context: click.Context) -> Iterator[str]:
    near = [] if context.parent is None else [_name(context.parent)]
    if isinstance(context.command, click.Group):
        near += [f"{_name(context)}-{name}" for name in context.command.list_commands(context)]
    yield ".SH SEE ALSO"
    for number, name in enumerate(near, 1):
        yield rf".BR {_roff(name)} ({SECTION}){',' if number < len(near) else ''}"


def _prose(text: str) -> str:
    """Return text for roff, with what is in backticks bold, and nothing that begins a request."""
    parts = _CODE.split(text)
    shown = "".join(
        rf"\fB{_roff(part)}\fR" if number % 2 else _roff(part) for number, part in enumerate(parts)
    )
    return f"\\&{shown}" if shown.startswith(".") else shown


def _roff(text: str) -> str:
    return text.translate(_ESCAPES)


if __name__ == "__main__":
    sys.exit(main())
