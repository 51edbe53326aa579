"""Polls for conditions that have no event, and the environment for starting our programs."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import shim
from shim.errors import DeadlineExceeded

PACKAGE_ROOT = Path(shim.__file__).parent.parent
START_S = 60.0
END_S = 60.0
_POLL_S = 0.02


def wait_until(check: Callable[[], bool], what: str, timeout_s: float) -> None:
    """Wait until `check` returns true.

    Raises:
        DeadlineExceeded: it did not within the timeout.
    """
    deadline = time.monotonic() + timeout_s
    while not check():
        if time.monotonic() > deadline:
            message = f"timed out after {timeout_s:g} s waiting for {what}"
            raise DeadlineExceeded(message)
        time.sleep(_POLL_S)


def environment() -> dict[str, str]:
    """Return an environment in which Python imports this package."""
    path = os.pathsep.join(filter(None, (str(PACKAGE_ROOT), os.environ.get("PYTHONPATH"))))
    return {**os.environ, "PYTHONPATH": path}
