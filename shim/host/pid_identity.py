"""The identity of a process: its pid with its start time, so that a reused pid is never hit.

Loads next to nothing: `delete` of a shim needs it and has five seconds for everything.
"""

from __future__ import annotations

import os
import signal as signals

from shim.host import procstat
from shim.host.oserror import typed
from shim.host.procstat import start_time


def is_alive(pid: int, start: int) -> bool:
    """Return whether that very process still runs; a zombie does not."""
    found = procstat.read(pid)
    return found is not None and found.start == start and not found.dead


def open_pidfd(pid: int, start: int) -> int | None:
    """Open a pidfd of that very process; None when it is gone (a zombie is not gone)."""
    try:
        fd = os.pidfd_open(pid)
    except ProcessLookupError:
        return None
    except OSError as error:
        raise typed(error, f"open process {pid}") from error
    # Only now: the descriptor pins the process, so the start time read next is that one's.
    if start_time(pid) == start:
        return fd
    os.close(fd)
    return None


def kill(pid: int, start: int, sig: int) -> bool:
    """Send `sig` to that very process; False when it is gone."""
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
