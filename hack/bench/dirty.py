"""Lowers the kernel's limit of dirty memory for a measurement, and puts the old one back."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

_SETTINGS = Path("/proc/sys/vm")


@contextlib.contextmanager
def limited(limit_bytes: int, settings: Path = _SETTINGS) -> Iterator[None]:
    """Set vm.dirty_bytes in the context.

    The kernel uses vm.dirty_bytes or vm.dirty_ratio, whichever was written last, and shows the
    other one as 0; so what was in use is written again.
    """
    before = {name: (settings / name).read_text("ascii") for name in ("dirty_bytes", "dirty_ratio")}
    used = "dirty_bytes" if int(before["dirty_bytes"]) else "dirty_ratio"
    try:
        (settings / "dirty_bytes").write_text(str(limit_bytes), "ascii")
        yield
    finally:
        (settings / used).write_text(before[used], "ascii")
