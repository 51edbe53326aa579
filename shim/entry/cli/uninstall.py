"""The commands of the group uninstall: containerd, docker."""

from __future__ import annotations

from pathlib import Path

import click

from shim.entry.cli.installing import Where, asking, carry_out, config_option, where_options
from shim.entry.cli.settings import Settings, pass_settings


@click.command("containerd")
@config_option("/etc/containerd/config.toml")
@where_options
@asking
@pass_settings
def containerd(out: Settings, config: Path, where: Where, *, yes: bool, dry_run: bool) -> None:
    """Remove the runtime from containerd's configuration.

    Undoes `cryo install containerd`; what was changed since then stays. The link to the shim goes
    with it unless Docker's configuration names the runtime. Remove its containers first.
    """
    from shim.install import for_containerd, for_docker

    plan = for_containerd.uninstall(config, where.link, link_is_used=for_docker.has_runtime())
    carry_out(out, plan, yes=yes, dry_run=dry_run)


@click.command("docker")
@config_option("/etc/docker/daemon.json")
@where_options
@asking
@pass_settings
def docker(out: Settings, config: Path, where: Where, *, yes: bool, dry_run: bool) -> None:
    """Remove the runtime from Docker's configuration.

    Undoes `cryo install docker`; what was changed since then stays. The link to the shim goes with
    it unless containerd's configuration names the runtime. Remove its containers first.
    """
    from shim.install import for_containerd, for_docker

    plan = for_docker.uninstall(config, where.link, link_is_used=for_containerd.has_runtime())
    carry_out(out, plan, yes=yes, dry_run=dry_run)


COMMANDS = (containerd, docker)
