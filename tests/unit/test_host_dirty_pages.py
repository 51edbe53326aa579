"""How much the page cache takes before a writer waits for the disk."""

from __future__ import annotations

import os
from pathlib import Path

from shim.host.dirty_pages import room_bytes

_PAGE = os.sysconf("SC_PAGE_SIZE")


def _table(folder: Path, dirty: int, writeback: int) -> Path:
    file = folder / "vmstat"
    file.write_text(
        f"nr_free_pages 7\nnr_dirty {dirty}\nnr_writeback {writeback}\nnr_writeback_temp 9\n"
        "nr_dirty_threshold 300\nnr_dirty_background_threshold 100\n",
        "ascii",
    )
    return file


def test_room_below_the_mean_of_both_limits(tmp_path: Path) -> None:
    """What is dirty or on its way to a disk takes its part."""
    assert room_bytes(_table(tmp_path, 0, 0)) == 200 * _PAGE
    assert room_bytes(_table(tmp_path, 30, 20)) == 150 * _PAGE
    assert room_bytes(_table(tmp_path, 300, 0)) == 0


def test_room_of_this_machine() -> None:
    """The kernel has these figures."""
    assert room_bytes() >= 0
