"""Exclusive locks on open files. Standard library only, for the supervisor. Source: flock(2)."""

from __future__ import annotations

import fcntl
import os


def try_lock(fd: int) -> int | None:
    """Lock a file and return its descriptor; if another has the lock, close it, and return None.

    Raises:
        OSError: the filesystem has no locks; the descriptor is closed.
    """
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(fd)
        return None
    except OSError:
        os.close(fd)
        raise
    return fd
