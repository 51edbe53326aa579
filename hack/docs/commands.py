"""The reference of the command line, from click."""

from __future__ import annotations

from collections.abc import Iterator

import click

from shim.entry.cli.app import cryo


def reference() -> str:
    """Return the page: every command with its usage, arguments and options."""
    parts = [
        "# Commands",
        "Written from the program itself; `-h` after a command prints the same.",
        *(text for context in contexts(_context(cryo, "cryo", None)) for text in _command(context)),
    ]
    return "\n\n".join(parts) + "\n"


def contexts(context: click.Context) -> Iterator[click.Context]:
    """Give a context for a command, and for each of the commands in it that are shown."""
    yield context
    group = context.command
    if isinstance(group, click.Group):
        for name in group.list_commands(context):
            command = group.get_command(context, name)
            if command is not None and not command.hidden:
                yield from contexts(_context(command, name, context))


def _context(command: click.Command, name: str, parent: click.Context | None) -> click.Context:
    return click.Context(command, parent, info_name=name, **command.context_settings)


def _command(context: click.Context) -> Iterator[str]:
    command = context.command
    yield f"## {context.command_path}"
    usage = command.collect_usage_pieces(context)
    yield f"```text\n{' '.join([context.command_path, *usage])}\n```"
    if command.help:
        yield _prose(command.help)
    records = [param.get_help_record(context) for param in command.get_params(context)]
    options = [record for record in records if record]
    if options:
        rows = [f"| `{names}` | {_cell(text)} |" for names, text in options]
        yield "\n".join(["| option | |", "|---|---|", *rows])


def _prose(text: str) -> str:
    """Return help as Markdown: paragraphs that click must not wrap are code."""
    done = []
    for paragraph in text.replace("\f", "").strip().split("\n\n"):
        if paragraph.startswith("\b"):
            lines = paragraph.removeprefix("\b").strip("\n")
            done.append(f"```text\n{lines}\n```")
        else:
            done.append(" ".join(paragraph.split()))
    return "\n\n".join(done)


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")
