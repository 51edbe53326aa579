"""Storage that is reserved and freed, on the real kernel."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from shim.host import allocation
from tests.unit.helpers_filesystems import (
    needs_disk,
    needs_root,
    small_disk,
    without_direct_writes,
)

MIB = 1 << 20


@needs_disk
def test_reserved_and_freed(tmp_path: Path) -> None:
    """A file has all of its storage, or none that could be reserved."""
    with small_disk(tmp_path, 32 * MIB) as disk, (disk / "file").open("wb") as file:
        allocation.reserve(file.fileno(), 8 * MIB)

        found = os.fstat(file.fileno())
        assert (found.st_size, found.st_blocks * 512) == (8 * MIB, 8 * MIB)
        allocation.free(file.fileno(), MIB, 4 * MIB)
        found = os.fstat(file.fileno())
        assert (found.st_size, found.st_blocks * 512) == (8 * MIB, 4 * MIB)
        with pytest.raises(OSError, match="No space left"):
            allocation.reserve(file.fileno(), 64 * MIB)


@needs_root
def test_filesystem_that_cannot_reserve(tmp_path: Path) -> None:
    """The file is as it was; nothing is written to it instead."""
    with without_direct_writes(tmp_path) as path, (path / "file").open("wb") as file:
        allocation.reserve(file.fileno(), 8 * MIB)
        allocation.free(file.fileno(), 0, MIB)

        assert os.fstat(file.fileno()).st_size == 0
