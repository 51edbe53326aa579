"""`tasks ls`, in a module of its own: it loads what the other commands need only for them."""

from __future__ import annotations

import click

from shim.entry.cli.settings import Settings, pass_settings
from shim.entry.cli.table import table
from shim.model import TaskView

_HEAD = ("TASK", "PID", "STATUS", "GPU", "EXIT", "RESTORED FROM")


@click.command("ls")
@click.option("-q", "--quiet", is_flag=True, help="print ids only")
@pass_settings
def ls(settings: Settings, *, quiet: bool) -> None:
    """List tasks."""
    with settings.client() as client:
        found = client.list()
    ids = "\n".join(view.id for view in found)
    settings.show(found, ids if quiet else table(_HEAD, [_row(view) for view in found]))


def _row(view: TaskView) -> tuple[object, ...]:
    ended = "" if view.exit is None else view.exit.status
    return (
        view.id,
        view.pid,
        view.state.value.upper(),
        "yes" if view.gpu else "",
        ended,
        view.restored_from,
    )


COMMANDS = (ls,)
