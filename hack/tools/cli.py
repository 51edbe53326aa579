"""Obtain the programs that the demo, the real tests and the benchmarks run against.

    python3 -m hack.tools [--json] [--require] [--retry] [TOOL...]

Needs only Python 3.11 and its standard library. For each tool the sources are tried in order. The
first that has it is printed, with the reasons why earlier ones failed, and written to `NAME.json`
in the cache: `$CRYO_CACHE`, or `cryoshim` in `$XDG_CACHE_HOME` or `~/.cache`.

Without names it obtains what `make test` needs: not the API server of Kubernetes with its database,
nor the servers that are tested with every combination only. By name these are obtained too.

An unavailable tool is reported on one line, and is an error only with --require. The failure is
cached for ten minutes, so that without a network not every `make` target tries again; --retry and
--require ignore cached failures.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict

from hack.tools import (
    buckets,
    clients,
    cluster,
    containerd,
    kubernetes,
    prometheus,
    registries,
    runsc,
    servers,
    suites,
)
from hack.tools.cache import cache_root, locked
from hack.tools.tool import describe, obtain

_ALL = (
    runsc.NEW,
    runsc.OLD,
    *containerd.LINES,
    *containerd.OTHERS,
    clients.CRICTL,
    clients.NERDCTL,
    cluster.ETCD,
    cluster.CNI,
    kubernetes.KUBELET,
    kubernetes.API_SERVER,
    buckets.VERSITYGW,
    *registries.REGISTRIES,
    *servers.SERVERS,
    *servers.MORE,
    prometheus.PROMTOOL,
    *suites.SUITES,
    suites.BOOTED,
)
TOOLS = {tool.name: tool for tool in _ALL}
# Few tests need these, and they take minutes.
CLUSTER = (kubernetes.API_SERVER.name, cluster.ETCD.name)
ON_REQUEST = frozenset((*CLUSTER, suites.BOOTED.name, *(tool.name for tool in servers.MORE)))


def usual() -> list[str]:
    """Return the names of the tools that are obtained without being named."""
    return [name for name in TOOLS if name not in ON_REQUEST]


def remedy(name: str) -> str:
    """Return the command that obtains a tool."""
    return f"python -m hack.tools {name}" if name in ON_REQUEST else "make tools"


def arguments(argv: Sequence[str]) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--json", action="store_true", help="print the choices as JSON")
    parser.add_argument("--require", action="store_true", help="fail if a tool is unavailable")
    parser.add_argument("--retry", action="store_true", help="ignore cached failures")
    parser.add_argument("tools", nargs="*", metavar="TOOL", help=f"one of {', '.join(TOOLS)}")
    options = parser.parse_args(argv)
    for name in options.tools:
        if name not in TOOLS:
            parser.error(f"unknown tool {name!r}: choose from {', '.join(TOOLS)}")
    return options


def main(argv: Sequence[str]) -> int:
    """Obtain the tools that the command line names, or all except those on request."""
    options = arguments(argv)
    cache = cache_root()
    with locked(cache):
        choices = [
            obtain(TOOLS[name], cache, ask_again=options.retry or options.require)
            for name in options.tools or usual()
        ]
    if options.json:
        print(json.dumps({choice.name: asdict(choice) for choice in choices}, indent=2))
    else:
        print("\n".join(line for choice in choices for line in describe(choice)))
    missing = [choice for choice in choices if choice.reason and not TOOLS[choice.name].optional]
    return int(options.require and bool(missing))
