"""The exit of a process that is not this process's child."""

from __future__ import annotations

import os

from shim.host import pid_identity, procs
from shim.host.process_id import ProcessId
from shim.host.supervisor import exits
from shim.host.supervisor.exits import Exited


async def exited(process: ProcessId) -> Exited:
    """Wait for the exit of a process; the status is 255 if the kernel does not provide it."""
    pidfd = pid_identity.open_pidfd(*process)
    if pidfd is None:
        return exits.unknown()
    try:
        await procs.readable(pidfd)
        return exits.foreign_exit(process, pidfd) or exits.unknown()
    finally:
        os.close(pidfd)
