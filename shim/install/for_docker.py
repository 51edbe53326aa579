"""What `cryo install docker` and `cryo uninstall docker` change."""

from __future__ import annotations

from pathlib import Path

from shim.install import docker
from shim.install.config_file import Change, read
from shim.install.links import Link
from shim.install.plan import Plan

CONFIG = Path("/etc/docker/daemon.json")
RELOAD = "systemctl reload docker"


def install(config: Path, link: Link, settings: str = "") -> Plan:
    """Plan the entry for the runtime, whose shims read `settings`, and the link.

    Raises:
        CryoError: it cannot be installed as things are.
    """
    link.check()
    text = read(config)
    change = Change(config, text, docker.added(text, settings, config))
    note = f"{link.path.parent} must be on the PATH of containerd: Docker names no path of a shim"
    return Plan(
        (change,) if change else (),
        make=None if link.is_made else link,
        restart=RELOAD if change else "",
        notes=() if link.on_path else (note,),
    )


def uninstall(config: Path, link: Link, *, link_is_used: bool) -> Plan:
    """Plan the removal of the entry, and of the link unless something else uses it.

    Raises:
        CryoError: it cannot be removed as things are.
    """
    text = read(config)
    docker.check_not_default(docker.parsed(text, config), config)
    change = Change(config, text, docker.removed(text, config))
    done = (change,) if change else ()
    return Plan.of_removal(done, link, RELOAD, link_is_used=link_is_used)


def has_runtime() -> bool:
    """Return whether the host's configuration has the runtime.

    Raises:
        CryoError: it cannot be read.
    """
    config = CONFIG.resolve()
    return docker.has_runtime(docker.parsed(read(config), config), config)
