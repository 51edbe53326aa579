"""The command tasks exec: another process in a running task."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from uuid import uuid4

import click

from shim.entry.cli import terminal
from shim.entry.cli.params import TASK
from shim.entry.cli.settings import Settings, pass_settings
from shim.model import Stdio

_CONFIG_MAX = 1 << 20
_PLAIN = {
    "cwd": "/",
    "env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"],
    "user": {"uid": 0, "gid": 0},
}


@click.command("exec", context_settings={"ignore_unknown_options": True})
@click.option(
    "-d", "--detach", is_flag=True, help="run in the background, with /dev/null as standard streams"
)
@click.option("-t", "--tty", is_flag=True, help="allocate a terminal")
@click.option("--exec-id", default="", help="id of the exec [default: random]")
@click.option("--cwd", default="", help="working directory")
@click.option("-u", "--user", default="", help="UID or UID:GID")
@click.option(
    "-e", "--env", multiple=True, metavar="NAME=VALUE", help="additional environment variable"
)
@click.argument("task", type=TASK)
@click.argument("args", nargs=-1, required=True, type=click.UNPROCESSED)
@pass_settings
def exec_(
    settings: Settings,
    task: str,
    args: tuple[str, ...],
    exec_id: str,
    cwd: str,
    user: str,
    env: tuple[str, ...],
    *,
    detach: bool,
    tty: bool,
) -> None:
    """Run a command in a task, and exit with its status.

    The working directory, user and environment default to those of the task's init process.
    """
    if detach and tty:
        message = "-d cannot be combined with -t"
        raise click.UsageError(message)
    terminal.check(wanted=tty)
    changes = _changes(args, cwd, user, env, tty=tty)
    name = exec_id or f"exec-{uuid4().hex[:12]}"
    import asyncio

    status = asyncio.run(_run(settings, task, name, changes, detach=detach))
    raise SystemExit(status)


def _changes(
    args: tuple[str, ...], cwd: str, user: str, env: tuple[str, ...], *, tty: bool
) -> dict[str, Any]:
    """Return the differences to the task's init process, as an OCI process object."""
    changes: dict[str, Any] = {"args": list(args), "terminal": tty, "env": list(env)}
    if cwd:
        changes["cwd"] = cwd
    if user:
        changes["user"] = _user(user)
    return changes


def _user(text: str) -> dict[str, int]:
    uid, _, gid = text.partition(":")
    if not uid.isdecimal() or not (gid or "0").isdecimal():
        message = f"{text!r}: write UID or UID:GID, in numbers"
        raise click.BadParameter(message, param_hint="--user")
    return {"uid": int(uid), "gid": int(gid or "0")}


def _template(bundle: str) -> dict[str, Any]:
    """Read the task's init process from its bundle; a default one if that cannot be read."""
    try:
        with Path(bundle, "config.json").open("rb") as config:
            process = json.loads(config.read(_CONFIG_MAX))["process"]
    except (OSError, ValueError, KeyError, TypeError):
        return dict(_PLAIN)
    return {**_PLAIN, **process} if isinstance(process, dict) else dict(_PLAIN)


async def _run(
    settings: Settings, task: str, exec_id: str, changes: dict[str, Any], *, detach: bool
) -> int:
    from shim.entry.cli.attached import Attached

    async with settings.async_client() as client:
        template = _template((await client.state(task)).bundle)
        process = {**template, **changes, "env": [*template["env"], *changes["env"]]}

        async def make(stdio: Stdio) -> None:
            await client.exec(task, exec_id, process, stdio)

        attached = Attached(client, task, exec_id, tty=changes["terminal"])
        if not detach:
            return (await attached.run(make, forget=True)).status
        await make(Stdio())
        pid = await client.start(task, exec_id)
    settings.show({"id": task, "exec_id": exec_id, "pid": pid}, "")
    return 0


COMMANDS = (exec_,)
