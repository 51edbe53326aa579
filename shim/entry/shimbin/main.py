"""`containerd-shim-cryo-v1`, which containerd runs; each action imports only what it needs."""

from __future__ import annotations

import os
import sys

from shim import bundle
from shim.entry.shimbin import flags as command_line
from shim.entry.shimbin import paths

# As in `typing`, which takes longer to load than the rest.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from shim.entry.shimbin.forkserver_client import Starter


def main() -> None:
    """Run one action and exit."""
    # Not for the shim: its own children may run another installation.
    run(sys.argv[1:], link=os.environ.pop(paths.LINK_VARIABLE, ""))


def run(argv: list[str], *, link: str = "", starter: Starter | None = None) -> None:
    """Run one action; `link` is that of the launcher, `starter` what starts a shim."""
    flags = command_line.parse(argv)
    if flags.version:
        from shim import __version__

        print(f"{sys.argv[0]}:\n  Version:  {__version__}")
    elif flags.info:
        from shim.entry.shimbin import info

        info.run()
    elif flags.action == "start":
        from shim.entry.shimbin import forkserver_client, start

        start.run(flags, starter or forkserver_client.Starter(link))
    elif flags.action == "delete":
        _delete(flags)
    else:
        print(f"usage: {sys.argv[0]} [flags] start|delete, by containerd", file=sys.stderr)
        raise SystemExit(2)


def _delete(flags: command_line.Flags) -> None:
    """Clean up, unless a Delete call has already done it.

    containerd also runs this after Delete, and waits for it. No output is an empty response.
    """
    folder = flags.bundle or "."
    left = os.path.lexists(f"{folder}/{bundle.LINK}")
    socket = paths.socket_of(folder)
    if left or (socket is not None and paths.is_stale(socket)):
        from shim.entry.shimbin import delete

        delete.run(flags)


if __name__ == "__main__":
    main()
