"""The open descriptors of the test process."""

from __future__ import annotations

import gc
import os


def descriptors() -> list[str]:
    """List them, after the garbage of other tests is collected, which has some."""
    gc.collect()
    return sorted(os.listdir("/proc/self/fd"))  # noqa: PTH208 - the names alone
