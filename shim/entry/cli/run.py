"""The command run: create and start a task, attached or in the background."""

from __future__ import annotations

import contextlib

import click

from shim.entry.cli import tasks, terminal
from shim.entry.cli.params import ANNOTATION, PATH
from shim.entry.cli.settings import Settings, pass_settings
from shim.errors import CryoError
from shim.model import Stdio
from shim.oci.annotation_names import WARM, WARM_WHEN


@click.command("run")
@click.option("--bundle", type=PATH, required=True, help="OCI bundle: a directory with config.json")
@click.option(
    "-d", "--detach", is_flag=True, help="run in the background, with /dev/null as standard streams"
)
@click.option("--rm", "remove", is_flag=True, help="delete the task when it has exited")
@click.option("-t", "--tty", is_flag=True, help="allocate a terminal")
@click.option(
    "--warm",
    default="",
    metavar="NAME",
    help="restore the image of this name; without one start cold, and save it when it is ready",
)
@click.option(
    "--warm-when",
    default="",
    metavar="CHECK",
    help="readiness check: exec CMD, http://:PORT/PATH, tcp://:PORT, file:PATH or self",
)
@click.option(
    "--annotation",
    "annotations",
    type=ANNOTATION,
    multiple=True,
    help="annotation to add to those of the bundle",
)
@click.argument("task")
@pass_settings
def run(
    settings: Settings,
    task: str,
    bundle: str,
    warm: str,
    warm_when: str,
    annotations: tuple[tuple[str, str], ...],
    *,
    detach: bool,
    remove: bool,
    tty: bool,
) -> None:
    """Run a bundle as the task TASK, and exit with its status."""
    if warm_when and not warm:
        message = "--warm-when requires --warm"
        raise click.UsageError(message)
    added = dict(annotations)
    added |= {WARM: warm} if warm else {}
    added |= {WARM_WHEN: warm_when} if warm_when else {}
    if detach and (tty or remove):
        message = "-d cannot be combined with -t or --rm"
        raise click.UsageError(message)
    terminal.check(wanted=tty)
    if detach:
        _detached(settings, task, bundle, added)
        return
    import asyncio

    status = asyncio.run(_attached(settings, task, bundle, added, remove=remove, tty=tty))
    raise SystemExit(status)


def _detached(settings: Settings, task: str, bundle: str, annotations: dict[str, str]) -> None:
    with settings.client() as client:
        client.create(task, bundle, annotations=annotations)
        try:
            pid = client.start(task)
        except BaseException:
            with contextlib.suppress(CryoError):
                tasks.end(client, task)
                client.delete(task)
            raise
    settings.show({"id": task, "pid": pid}, "")


async def _attached(
    settings: Settings,
    task: str,
    bundle: str,
    annotations: dict[str, str],
    *,
    remove: bool,
    tty: bool,
) -> int:
    from shim.entry.cli.attached import Attached

    async with settings.async_client() as client:
        attached = Attached(client, task, tty=tty)

        async def make(stdio: Stdio) -> None:
            await client.create(task, bundle, stdio=stdio, annotations=annotations)

        ended = await attached.run(make, forget=remove)
    return ended.status


COMMANDS = (run,)
