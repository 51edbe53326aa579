"""The command events: what happens, as it happens."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

import click

from shim.entry.cli.settings import Settings, pass_settings

if TYPE_CHECKING:
    from shim.model import EventView

_WIDTHS = (8, 12, 20, 20)
_LAST = frozenset({"error", "reason", "text"})


@click.command("events")
@click.option("-A", "--all-namespaces", is_flag=True, help="of every namespace")
@click.option(
    "--kind", "kinds", multiple=True, help="only of this kind, such as exit; may be repeated"
)
@click.argument("task", default="")
@pass_settings
def events(settings: Settings, task: str, kinds: tuple[str, ...], *, all_namespaces: bool) -> None:
    """Follow what happens to tasks and images.

    A line for each event, until Ctrl-C: tasks that are created, started and deleted or exit,
    operations that begin and end, and warm starts. With --output json each line is a JSON object.
    """
    try:
        _follow(settings, task, kinds, everywhere=all_namespaces)
    except KeyboardInterrupt:
        return
    except BrokenPipeError:
        # Whatever reads this has enough; the interpreter would fail to flush at its exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _follow(settings: Settings, task: str, kinds: tuple[str, ...], *, everywhere: bool) -> None:
    with settings.client() as client:
        for one in client.follow(task, everywhere=everywhere):
            if not kinds or one.kind in kinds:
                print(_json(one) if settings.as_json else _line(one), flush=True)


def _json(one: EventView) -> str:
    import msgspec

    return msgspec.json.encode(one).decode()


def _line(one: EventView) -> str:
    """Return an event as a line: its time, namespace, task and kind in columns, then the rest."""
    from shim.host.text import printable

    cells = (
        one.at.astimezone().strftime("%H:%M:%S"),
        one.namespace or "-",
        one.task or "-",
        one.kind,
    )
    columns = "  ".join(cell.ljust(width) for cell, width in zip(cells, _WIDTHS, strict=True))
    more = " ".join(
        f"{name}={_value(text)}" for name, text in sorted(one.fields.items(), key=_order)
    )
    return printable(f"{columns}  {more}").rstrip()


def _order(field: tuple[str, str]) -> tuple[bool, str]:
    """Sort by name; the text of an error is the longest, and comes last."""
    name, _ = field
    return name in _LAST, name


def _value(text: str) -> str:
    return f'"{text}"' if " " in text else text


COMMANDS = (events,)
