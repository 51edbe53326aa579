"""Exit statuses as a shell reports them: 128 plus the signal's number for a signal."""

from __future__ import annotations

import os
import signal

SIGKILL_STATUS = 128 + signal.SIGKILL
# If the kernel no longer has the status.
UNKNOWN_STATUS = 255


def from_wait_status(code: int) -> int:
    """Convert the status of waitpid(2)."""
    ended = os.waitstatus_to_exitcode(code)
    return ended if ended >= 0 else 128 - ended
