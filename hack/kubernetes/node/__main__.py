"""The installer's command line: `python3 -m hack.kubernetes.node install | remove | run`."""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from hack.kubernetes.node.daemon import SystemdUnit
from hack.kubernetes.node.install import Installer
from hack.kubernetes.node.paths import Node
from hack.kubernetes.node.sidecar import NAME
from shim.errors import CryoError

_NODE = Node()


def main(argv: Sequence[str]) -> int:
    """Run one command and return its exit code."""
    asked = parser().parse_args(argv)
    node = Node(asked.root, asked.prefix, asked.containerd, asked.settings)
    daemon, service = (SystemdUnit(asked.unit), SystemdUnit(NAME)) if asked.unit else (None, None)
    installer = Installer(node, daemon, asked.owner, service, sidecar=not asked.no_sidecar)
    try:
        if asked.command == "remove":
            _report(installer.remove())
            return 0
        signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGTERM, signal.SIGINT))
        _report(installer.install(asked.bundle, asked.config))
        if asked.command == "run":
            asked.ready.touch()
            signal.sigwait((signal.SIGTERM, signal.SIGINT))
            _end(installer, asked.wait)
    except CryoError as error:
        print(f"cryoshim: {error}; {error.remedy}", file=sys.stderr, flush=True)
        return 1
    return 0


def _end(installer: Installer, wait_s: float) -> None:
    """Remove the runtime, unless another installer replaces this one or the node goes down."""
    if installer.is_owner() and not _is_node_ending(installer):
        installer.wait_until_unused(wait_s)
    if not installer.is_owner():
        print("another installer has taken over; the runtime stays", flush=True)
    elif _is_node_ending(installer):
        print("the node is being shut down; the runtime stays", flush=True)
    else:
        _report(installer.remove())


def _is_node_ending(installer: Installer) -> bool:
    return installer.daemon is not None and installer.daemon.is_ending()


def _report(lines: Iterator[str]) -> None:
    for line in lines:
        print(line, flush=True)


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(prog="hack.kubernetes.node", description=__doc__)
    parser.add_argument("command", choices=("install", "remove", "run"))
    add = parser.add_argument
    add("--root", type=Path, default=_NODE.root, help="where the node's root directory is mounted")
    add("--prefix", type=Path, default=_NODE.prefix, help="the directory of the installation")
    add("--containerd", type=Path, default=_NODE.containerd, help="containerd's config.toml")
    add("--settings", type=Path, default=_NODE.settings, help="our config.toml on the node")
    add("--config", type=Path, help="the file with the settings to write there")
    add("--bundle", type=Path, default=Path("/cryoshim"), help="the bundle to install")
    add("--unit", default="", help="containerd's systemd unit; without it nothing is (re)started")
    add("--no-sidecar", action="store_true", help="install no sidecar, and remove an earlier one")
    add("--owner", default="", help="a name for this installer, such as its pod's UID")
    add("--wait", type=float, default=120.0, help="`run` waits so long for pods before it removes")
    add("--ready", type=Path, default=Path("/run/installed"), help="`run` creates this file")
    return parser


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
