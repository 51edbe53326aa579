"""Locks of the image store: a file in the configured folder, held by one process at a time."""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import time
from collections.abc import Iterator
from pathlib import Path

from shim.errors import Busy
from shim.host import trusted

NAMES = ".cryo-names.lock"
# How long a change of names waits for others; each takes milliseconds, and a rebuild seconds.
WAIT_S = 20.0
_POLL_S = 0.02
_log = logging.getLogger(__name__)


@contextlib.contextmanager
def store_lock(images: Path, name: str, *, wait_s: float = WAIT_S) -> Iterator[None]:
    """Hold a lock of the store within the block; call this in a thread.

    Raises:
        Busy: another process has it for longer than `wait_s`.
        PermissionDenied: another user could replace the file.
    """
    path = images / name
    fd = trusted.open_file(path, os.O_RDWR | os.O_CREAT)
    try:
        _lock(fd, path, time.monotonic() + wait_s)
        yield
    finally:
        os.close(fd)


def _lock(fd: int, path: Path, until_s: float) -> None:
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            # A blocking call could not be ended, so a process that hangs would hold others up.
            if time.monotonic() >= until_s:
                message = f"the image store is in use: another process holds {path}"
                raise Busy(message, remedy="try again when that process has finished") from error
            time.sleep(_POLL_S)
        except OSError as error:  # a filesystem without locks
            _log.warning("%s cannot be locked: %s", path, error)
            return
        else:
            return
