"""Obtain the programs that the demo, the real tests and the benchmarks run against.

    python3 -m hack.tools [--json] [--require] [--retry] [TOOL...]

Needs Python 3.11 and its standard library only. For each tool the sources are tried in order; the
choice is printed with why the earlier ones were passed over, and written to `NAME.json` in the
cache, `$CRYO_CACHE` or `cryoshim` in `$XDG_CACHE_HOME` or `~/.cache`.

A tool that cannot be had is one line, and a failure only with --require. Such a "no" is kept for
ten minutes, so that a machine without network is not asked again by each `make` target; --retry
and --require ask again.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict

from hack.tools import clients, containerd, runsc
from hack.tools.cache import cache_root, locked
from hack.tools.tool import describe, obtain

_ALL = (
    runsc.NEW,
    runsc.OLD,
    *containerd.LINES,
    *containerd.OTHERS,
    clients.CRICTL,
    clients.NERDCTL,
)
TOOLS = {tool.name: tool for tool in _ALL}


def arguments(argv: Sequence[str]) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--json", action="store_true", help="print the choices as JSON")
    parser.add_argument("--require", action="store_true", help="fail when a tool cannot be had")
    parser.add_argument("--retry", action="store_true", help="ask again after a recent no")
    parser.add_argument("tools", nargs="*", metavar="TOOL", help=f"one of {', '.join(TOOLS)}")
    options = parser.parse_args(argv)
    for name in options.tools:
        if name not in TOOLS:
            parser.error(f"unknown tool {name!r}: choose from {', '.join(TOOLS)}")
    return options


def main(argv: Sequence[str]) -> int:
    """Obtain the tools that the command line names, or all."""
    options = arguments(argv)
    cache = cache_root()
    with locked(cache):
        choices = [
            obtain(TOOLS[name], cache, ask_again=options.retry or options.require)
            for name in options.tools or TOOLS
        ]
    if options.json:
        print(json.dumps({choice.name: asdict(choice) for choice in choices}, indent=2))
    else:
        print("\n".join(line for choice in choices for line in describe(choice)))
    missing = [choice for choice in choices if choice.reason and not TOOLS[choice.name].optional]
    return int(options.require and bool(missing))
