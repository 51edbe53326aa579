"""The command tasks ps: what runs in a task."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

import click

from shim.entry.cli.params import TASK
from shim.entry.cli.settings import Settings, pass_settings
from shim.entry.cli.table import table
from shim.host.sizes import size
from shim.host.text import printable
from shim.model import GuestProcessView, ProcessList

if TYPE_CHECKING:
    from shim.client import Client

_HEAD = ("PID", "PPID", "USER", "MEMORY", "GPU", "CUDA", "GPU MEMORY", "COMMAND")
_DEVICES = "/dev/"


@click.command("ps")
@click.option("-q", "--quiet", is_flag=True, help="print PIDs only")
@click.argument("task", type=TASK)
@pass_settings
def ps(settings: Settings, task: str, *, quiet: bool) -> None:
    """List the processes of a task, by their PIDs in the container.

    USER is the number of the user in the container, GPU the devices that a process has open, CUDA
    the state of its GPU memory as cuda-checkpoint names it. GPU MEMORY is shown for a process that
    is the only one of its sandbox with a GPU: the driver counts the memory of a whole sandbox.
    What is not known is `-`.
    """
    with settings.client() as client:
        found = _listed(client, task)
    rows = found.processes
    text = table(_HEAD, map(_row, rows))
    settings.show(rows, "\n".join(str(row.pid) for row in rows) if quiet else _cut(text))
    for warning in found.warnings:
        print(printable(f"warning: {warning}"), file=sys.stderr)


def _listed(client: Client, task: str) -> ProcessList:
    """Return the processes; of an owner of an earlier version only their numbers."""
    from shim.errors import Unimplemented

    try:
        return client.processes(task)
    except Unimplemented:
        pids = client.pids(task)
    warning = "what runs is not known: the owner of the task is of an earlier version"
    return ProcessList(
        processes=tuple(GuestProcessView(pid=pid) for pid in pids), warnings=(warning,)
    )


def _row(one: GuestProcessView) -> tuple[object, ...]:
    return (
        one.pid,
        _known(one.parent),
        _known(one.uid),
        "" if one.memory_bytes is None else size(one.memory_bytes),
        ",".join(path.removeprefix(_DEVICES) for path in one.gpu_devices),
        one.cuda_state or "",
        "" if one.gpu_bytes is None else size(one.gpu_bytes),
        " ".join(one.args) or (f"[{one.name}]" if one.name else ""),
    )


def _known(number: int | None) -> str:
    return "" if number is None else str(number)


def _cut(text: str) -> str:
    """Cut each line to the width of the terminal, as ps does; elsewhere leave it as it is."""
    if not sys.stdout.isatty():
        return text
    columns = os.get_terminal_size(sys.stdout.fileno()).columns
    return "\n".join(printable(line)[:columns] if columns else line for line in text.split("\n"))


COMMANDS = (ps,)
