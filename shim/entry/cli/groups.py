"""A click group whose commands may be called by ctr's other names for them."""

from __future__ import annotations

import click

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
    """A group with aliases; a command's own name comes first."""

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Find a command by its name, or by one of its other names."""
        found = super().get_command(ctx, cmd_name)
        if found is None and cmd_name in _ALIASES:
            return super().get_command(ctx, _ALIASES[cmd_name])
        return found
