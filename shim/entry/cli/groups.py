"""Click groups: with ctr's aliases of commands, whose modules are loaded on use."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import Any

import click

from shim.entry.cli import selftest

# click reads it: what a shell asks for.
COMPLETE_VARIABLE = "_CRYO_COMPLETE"

ALIASES = {
    "list": "ls",
    "rm": "delete",
    "del": "delete",
    "remove": "delete",
    "metric": "metrics",
    "t": "tasks",
    "task": "tasks",
}


class Group(click.Group):
    """A group with aliases, which no command has as its name.

    The commands of its modules are added when they are looked for: one module after the other until
    one has the name, or all of them for a list.
    """

    def __init__(self, *args: Any, modules: Sequence[str] = (), **options: Any) -> None:
        """Take what `click.Group` takes, and the modules of this package that have `COMMANDS`."""
        super().__init__(*args, **options)
        self._unloaded = list(modules)

    def _load_next(self) -> None:
        module = importlib.import_module(f"shim.entry.cli.{self._unloaded.pop(0)}")
        for command in module.COMMANDS:
            self.add_command(command)

    def list_commands(self, ctx: click.Context) -> list[str]:
        """List the names in order."""
        while self._unloaded:
            self._load_next()
        return super().list_commands(ctx)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Find a command by its name, or by one of its other names."""
        name = ALIASES.get(cmd_name, cmd_name)
        found = super().get_command(ctx, name)
        while found is None and self._unloaded:
            self._load_next()
            found = super().get_command(ctx, name)
        return found


class Root(Group):
    """The group of all commands, with `selftest`, which is loaded on use."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """List the names in order."""
        return sorted([*super().list_commands(ctx), selftest.NAME])

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Find a command by its name, or by one of its other names."""
        return selftest.load() if cmd_name == selftest.NAME else super().get_command(ctx, cmd_name)
