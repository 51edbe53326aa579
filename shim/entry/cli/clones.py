"""Restores an image as several tasks, and prints a table of them."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from shim.entry.cli.progress import Renderer
from shim.entry.cli.settings import Settings
from shim.entry.cli.table import table
from shim.errors import CryoError
from shim.host.text import printable
from shim.model import CloneResult, RestoreOptions, utcnow

if TYPE_CHECKING:
    from datetime import datetime

    from shim.client import Client

_HEAD = ("TASK", "RESULT", "PID", "SECONDS", "GPU", "ERROR")


def clone(settings: Settings, clones: Mapping[str, RestoreOptions], at_once: int) -> None:
    """Restore the clones, by their ids; print what became of each.

    Raises:
        CryoError: some or all of them failed.
    """
    began = utcnow()
    with settings.client() as client, Renderer() as renderer:
        try:
            results = client.clone(clones, on_progress=renderer.report, at_once=at_once)
        except KeyboardInterrupt:
            print(printable(_left(client, clones, began)), file=sys.stderr)
            raise
    settings.show(results, table(_HEAD, map(_row, results)))
    warnings = [
        f"{one.id}: {text}" for one in results if one.restored for text in one.restored.warnings
    ]
    renderer.print_others(warnings)
    if failed := sum(one.restored is None for one in results):
        message = f"{failed} of {len(results)} clones failed"
        raise CryoError(message, remedy="the table has the reasons")


def _row(result: CloneResult) -> tuple[object, ...]:
    made = result.restored
    return (
        result.id,
        "failed" if made is None else "running",
        "" if made is None else made.pid,
        f"{result.took_s:.2f}",
        ",".join(result.gpus),
        "; ".join(part for part in (result.error, result.remedy) if part),
    )


def _left(client: Client, clones: Iterable[str], began: datetime) -> str:
    """Say which clones were complete when the others were rolled back."""
    try:
        views = {view.id: view for view in client.list()}
    except CryoError as error:
        return f"which clones are complete is unknown: {error}"
    made = [name for name in clones if name in views and views[name].created_at >= began]
    return f"these clones were complete, and run: {', '.join(made) or 'none'}"
