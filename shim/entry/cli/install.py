"""The commands of the group install: containerd, docker."""

from __future__ import annotations

from pathlib import Path

import click

from shim.entry.cli.installing import Where, asking, carry_out, config_option, where_options
from shim.entry.cli.settings import Settings, pass_settings

_settings = click.option(
    "--settings",
    default="",
    metavar="FILE",
    help="config.toml of the shims of this runtime [default: /etc/cryo/config.toml if it exists]",
)


@click.command("containerd")
@config_option("/etc/containerd/config.toml")
@_settings
@where_options
@asking
@pass_settings
def containerd(
    out: Settings, config: Path, settings: str, where: Where, *, yes: bool, dry_run: bool
) -> None:
    """Make this runtime known to containerd, for Kubernetes and ctr.

    Adds the runtime `cryo` to its configuration, as the file cryoshim.toml where a directory is
    imported, and links the shim into a directory on its PATH. Prints the changes and asks first.
    Restarts nothing.
    """
    from shim.install import for_containerd

    plan = for_containerd.install(config, where.link, settings)
    carry_out(out, plan, yes=yes, dry_run=dry_run)


@click.command("docker")
@config_option("/etc/docker/daemon.json")
@_settings
@where_options
@asking
@pass_settings
def docker(
    out: Settings, config: Path, settings: str, where: Where, *, yes: bool, dry_run: bool
) -> None:
    """Make this runtime known to Docker.

    Adds the runtime `cryo` to its configuration, and links the shim into a directory on the PATH of
    containerd. Prints the changes and asks first. Restarts nothing.
    """
    from shim.install import for_docker

    plan = for_docker.install(config, where.link, settings)
    carry_out(out, plan, yes=yes, dry_run=dry_run)


COMMANDS = (containerd, docker)
