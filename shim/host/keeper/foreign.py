"""The exit of a process that is not this process's child."""

from __future__ import annotations

import os

from shim.host import exact, procs
from shim.host.keeper import exits
from shim.host.keeper.exits import Exited
from shim.host.process_id import ProcessId


async def exited(process: ProcessId) -> Exited:
    """Wait for the exit of a process; its status is 255 where the kernel does not show it."""
    pidfd = exact.open_pidfd(*process)
    if pidfd is None:
        return exits.unknown()
    try:
        await procs.readable(pidfd)
        return exits.foreign_exit(process, pidfd) or exits.unknown()
    finally:
        os.close(pidfd)
