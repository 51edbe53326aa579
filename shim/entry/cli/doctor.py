"""`cryo doctor`: what decides whether a checkpoint works, on this host or of one task.

Of the host it needs no sidecar. The codes:

    0    all is well, or warnings only
    20   config.toml cannot be used
    21   kernel, cgroups or memory
    22   runsc
    23   driver or GPUs
    24   containerd
    25   disks
    26   sockets
    27   leftovers of interrupted operations
    28   the task, which cannot be checkpointed as it is
    29   a check itself failed or timed out

With several, the first of these that has a failure. Any other code is one of `exits`.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from shim.entry.cli.params import PATH
from shim.entry.cli.settings import Settings, pass_settings
from shim.entry.cli.table import table

if TYPE_CHECKING:
    from shim.doctor.host import Host
    from shim.doctor.report import Report
    from shim.finding import Finding

_HEAD = ("LEVEL", "CLASS", "SUBJECT", "FINDING")


@click.command("doctor")
@click.option(
    "--config",
    "config_path",
    type=click.Path(path_type=Path),
    help="config.toml [default: /etc/cryo/config.toml if it exists]",
)
@click.option("--containerd-config", type=PATH, help="containerd's config.toml")
@click.option("--repair", is_flag=True, help="roll back what interrupted operations left behind")
@click.argument("task", required=False)
@pass_settings
def doctor(
    settings: Settings,
    task: str | None,
    config_path: Path | None,
    containerd_config: str | None,
    *,
    repair: bool,
) -> None:
    """Check whether checkpoints work, on this host or of a task.

    For the host it needs no sidecar, and changes nothing without --repair. Of a task the sidecar
    or the shim that owns it is asked, and nothing is frozen. Exits with 0 without failures, and
    otherwise with a code that says what failed.
    """
    from shim.doctor.report import report

    began, repaired = time.monotonic(), list[str]()
    if task is None:
        host = _host(settings, config_path, containerd_config)
        findings = _examined(host)
        repaired = _repaired(host, findings) if repair else []
        if repaired:
            findings = _examined(host)
    elif config_path or containerd_config or repair:
        message = "--config, --containerd-config and --repair are about the host, not about a task"
        raise click.UsageError(message)
    else:
        with settings.client() as client:
            findings = tuple(client.examine(task))
    found = report(findings, time.monotonic() - began, repaired)
    settings.show(found, _text(found))
    sys.exit(found.exit_code)


def _examined(host: Host) -> tuple[Finding, ...]:
    import asyncio

    from shim.doctor.examination import examine

    return asyncio.run(examine(host))


def _host(settings: Settings, config_path: Path | None, containerd: str | None) -> Host:
    """Return this host with its settings, or the defaults if they cannot be read."""
    from shim.config import DEFAULT_CONFIG, Config, load
    from shim.doctor.host import Host
    from shim.errors import CryoError
    from shim.service.address import parse

    config, wrong, path = Config(), None, None
    try:
        config = load(config_path)
        path = Path(parse(settings.address if settings.address_given else config.server.address))
    except CryoError as error:
        wrong = error
    used = config_path or (DEFAULT_CONFIG if DEFAULT_CONFIG.exists() else None)
    return Host(
        config=config,
        settings_path=str(used or ""),
        settings_error=wrong,
        socket=path,
        containerd_config=Path(containerd) if containerd else None,
    )


def _repaired(host: Host, findings: tuple[Finding, ...]) -> list[str]:
    """Recover what can be recovered; return what was done, or why not, a line each."""
    from shim.entry import recover
    from shim.errors import CryoError
    from shim.finding import Area, Level

    left = [one for one in findings if one.area is Area.LEFTOVERS and one.level is not Level.OK]
    if not left or host.settings_error is not None:
        return []
    try:
        return recover.run(host.config)
    except CryoError as error:
        return [f"not repaired: {error.message}; {error.remedy}"]


def _text(found: Report) -> str:
    rows = [(one.level, one.area, one.subject, _line(one)) for one in found.findings]
    done = [f"repair: {line}" for line in found.repaired]
    return "\n".join([*done, table(_HEAD, rows)])


def _line(one: Finding) -> str:
    return f"{one.text}; {one.remedy}" if one.remedy else one.text


COMMANDS = (doctor,)
