"""Waiting for things that have no event to wait for, and starting our own programs."""

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
    """Wait until `check` says yes.

    Raises:
        DeadlineExceeded: it did not in time.
    """
    deadline = time.monotonic() + timeout_s
    while not check():
        if time.monotonic() > deadline:
            message = f"{what} is not there after {timeout_s:g} s"
            raise DeadlineExceeded(message)
        time.sleep(_POLL_S)


def environment() -> dict[str, str]:
    """Return the environment in which this very package is importable."""
    path = os.pathsep.join(filter(None, (str(PACKAGE_ROOT), os.environ.get("PYTHONPATH"))))
    return {**os.environ, "PYTHONPATH": path}
