"""The identity of a process: its pid with its start time, so that a reused pid never matches.

Imports little: a shim's `delete` uses it and has five seconds in total.
"""

from __future__ import annotations

import os
import signal as signals

from shim.host import procstat
from shim.host.oserror import typed
from shim.host.procstat import start_time


def is_alive(pid: int, start: int) -> bool:
    """Return whether the process with this pid and start time runs; a zombie does not."""
    found = procstat.read(pid)
    return found is not None and found.start == start and not found.dead


def open_pidfd(pid: int, start: int) -> int | None:
    """Open a pidfd of the process with this start time; None if gone (a zombie is not gone)."""
    try:
        fd = os.pidfd_open(pid)
    except ProcessLookupError:
        return None
    except OSError as error:
        raise typed(error, f"open process {pid}") from error
    # Read after opening: the descriptor pins the pid, so the start time belongs to its process.
    if start_time(pid) == start:
        return fd
    os.close(fd)
    return None


def kill(pid: int, start: int, sig: int) -> bool:
    """Send `sig` to the process with this start time; False when it is gone."""
    fd = open_pidfd(pid, start)
    if fd is None:
        return False
    try:
        signals.pidfd_send_signal(fd, sig)
    except ProcessLookupError:
        return False
    except OSError as error:
        raise typed(error, f"signal process {pid}") from error
    finally:
        os.close(fd)
    return True
