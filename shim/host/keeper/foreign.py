"""The end of a process that is not this process's child."""

from __future__ import annotations

import os

from shim.host import exact, procs
from shim.host.keeper import exits
from shim.host.keeper.exits import End, Key
from shim.host.keeper.port import Spawned


async def ended(process: Spawned) -> End:
    """Return when a process has ended: with its status as far as the kernel shows it, else 255."""
    pidfd = exact.open_pidfd(*process)
    if pidfd is None:
        return exits.unseen()
    try:
        await procs.readable(pidfd)
        return exits.foreign_end(Key(*process), pidfd) or exits.unseen()
    finally:
        os.close(pidfd)
