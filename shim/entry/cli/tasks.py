"""The commands on tasks other than ls, ps, exec, checkpoint and restore."""

from __future__ import annotations

import contextlib
import signal
from typing import TYPE_CHECKING

import click

from shim.entry.cli.params import PATH, SIGNAL, TASK
from shim.entry.cli.settings import Settings, pass_settings
from shim.entry.cli.table import table
from shim.errors import NotFound
from shim.host.sizes import size
from shim.model import Stats, Stdio

if TYPE_CHECKING:
    from shim.client import Client

_NS_PER_S = 1e9


@click.command("create")
@click.option("--bundle", type=PATH, required=True, help="OCI bundle: a directory with config.json")
@click.option("--checkpoint", type=PATH, default="", help="image that start restores")
@click.option("--stdin", type=PATH, default="", help="path of a file or FIFO")
@click.option("--stdout", type=PATH, default="", help="path of a file or FIFO")
@click.option("--stderr", type=PATH, default="", help="path of a file or FIFO")
@click.argument("task")
@pass_settings
def create(
    settings: Settings,
    task: str,
    bundle: str,
    checkpoint: str,
    stdin: str,
    stdout: str,
    stderr: str,
) -> None:
    """Create a task from a bundle."""
    stdio = Stdio(stdin=stdin, stdout=stdout, stderr=stderr)
    with settings.client() as client:
        pid = client.create(task, bundle, stdio=stdio, checkpoint=checkpoint)
    settings.show({"id": task, "pid": pid}, "")


@click.command("start")
@click.argument("task", type=TASK)
@pass_settings
def start(settings: Settings, task: str) -> None:
    """Start a created task."""
    with settings.client() as client:
        pid = client.start(task)
    settings.show({"id": task, "pid": pid}, "")


@click.command("kill")
@click.option(
    "-s",
    "--signal",
    "number",
    type=SIGNAL,
    default="SIGTERM",
    show_default=True,
    help="name or number of the signal",
)
@click.option("--all", "-a", "everyone", is_flag=True, help="signal all processes of the task")
@click.option("--exec-id", default="", help="id of an exec")
@click.argument("task", type=TASK)
@pass_settings
def kill(settings: Settings, task: str, number: int, exec_id: str, *, everyone: bool) -> None:
    """Send a signal to a task."""
    with settings.client() as client:
        client.kill(task, number, exec_id=exec_id, everyone=everyone)
    settings.show({"id": task, "signal": number}, "")


@click.command("pause")
@click.argument("task", type=TASK)
@pass_settings
def pause(settings: Settings, task: str) -> None:
    """Pause a task."""
    with settings.client() as client:
        client.pause(task)
    settings.show({"id": task}, "")


@click.command("resume")
@click.argument("task", type=TASK)
@pass_settings
def resume(settings: Settings, task: str) -> None:
    """Resume a paused task."""
    with settings.client() as client:
        client.resume(task)
    settings.show({"id": task}, "")


@click.command("wait")
@click.option("--exec-id", default="", help="id of an exec")
@click.argument("task", type=TASK)
@pass_settings
def wait(settings: Settings, task: str, exec_id: str) -> None:
    """Wait until a task exits, and print its exit status."""
    with settings.client() as client:
        ended = client.wait(task, exec_id)
    settings.show(ended, str(ended.status))


@click.command("metrics")
@click.argument("task", type=TASK)
@pass_settings
def metrics(settings: Settings, task: str) -> None:
    """Print resource usage of a task."""
    with settings.client() as client:
        stats = client.stats(task)
    settings.show(stats, table(("METRIC", "VALUE"), _measures(stats)))


def _measures(stats: Stats) -> list[tuple[str, str]]:
    limit = stats.memory_limit_bytes
    return [
        ("cpu.usage", f"{stats.cpu_usage_ns / _NS_PER_S:.3f} s"),
        ("cpu.user", f"{stats.cpu_user_ns / _NS_PER_S:.3f} s"),
        ("cpu.system", f"{stats.cpu_system_ns / _NS_PER_S:.3f} s"),
        ("memory.usage", size(stats.memory_bytes)),
        ("memory.limit", size(limit) if limit else "none"),
        ("pids.current", str(stats.pids)),
    ]


@click.command("delete")
@click.option("-f", "--force", is_flag=True, help="kill the process if it is running")
@click.option("--exec-id", default="", help="id of an exec")
@click.argument("names", type=TASK, nargs=-1, required=True, metavar="TASK...")
@pass_settings
def delete(settings: Settings, names: tuple[str, ...], exec_id: str, *, force: bool) -> None:
    """Delete exited tasks."""
    with settings.client() as client:
        for task in names:
            if force:
                end(client, task, exec_id)
            client.delete(task, exec_id)
    settings.show({"deleted": names}, "")


def end(client: Client, task: str, exec_id: str = "") -> None:
    """Kill a process and wait for its exit; one that has already exited is no error."""
    if client.state(task, exec_id).exit is not None:
        return
    with contextlib.suppress(NotFound):
        client.kill(task, signal.SIGKILL, exec_id=exec_id, everyone=not exec_id)
    client.wait(task, exec_id)


COMMANDS = (create, start, kill, pause, resume, wait, metrics, delete)
