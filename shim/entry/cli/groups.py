"""Click groups: with ctr's aliases of commands, and with a command that is loaded lazily."""

from __future__ import annotations

import click

from shim.entry.cli import selftest

_ALIASES = {
    "list": "ls",
    "rm": "delete",
    "del": "delete",
    "remove": "delete",
    "metric": "metrics",
    "t": "tasks",
    "task": "tasks",
}


class Group(click.Group):
    """A group with aliases; a command's own name takes precedence."""

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Find a command by its name, or by one of its other names."""
        found = super().get_command(ctx, cmd_name)
        if found is None and cmd_name in _ALIASES:
            return super().get_command(ctx, _ALIASES[cmd_name])
        return found


class Root(Group):
    """The group of all commands, with `selftest`, which is loaded on use."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """List the names in order."""
        return sorted([*super().list_commands(ctx), selftest.NAME])

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Find a command by its name, or by one of its other names."""
        return selftest.load() if cmd_name == selftest.NAME else super().get_command(ctx, cmd_name)
