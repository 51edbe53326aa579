"""How much a program can write before the kernel makes it wait for the disk.

Source: balance_dirty_pages in mm/page-writeback.c: writers wait from the mean of both limits on.
"""

from __future__ import annotations

import os
from pathlib import Path

_VMSTAT = Path("/proc/vmstat")
_LIMITS = ("nr_dirty_background_threshold", "nr_dirty_threshold")
_USED = ("nr_dirty", "nr_writeback")


def room_bytes(vmstat: Path = _VMSTAT) -> int:
    """Return how many bytes the page cache takes without a wait for a disk."""
    rows = [line.split() for line in vmstat.read_text("ascii").splitlines()]
    found = {name: int(value) for name, value in rows if name in (*_LIMITS, *_USED)}
    limit = sum(found.get(name, 0) for name in _LIMITS) // len(_LIMITS)
    pages = limit - sum(found.get(name, 0) for name in _USED)
    return max(0, pages) * os.sysconf("SC_PAGE_SIZE")
