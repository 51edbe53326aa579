"""Exclusive locks on open files."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from shim.host.filelock import try_lock


def test_one_has_it_until_it_is_closed(tmp_path: Path) -> None:
    """Of two open files one is locked; the descriptor of the other is closed."""
    first, second = (os.open(tmp_path, os.O_RDONLY) for _ in range(2))

    assert try_lock(first) == first
    assert try_lock(second) is None
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(second)

    os.close(first)
    third = os.open(tmp_path, os.O_RDONLY)
    assert try_lock(third) == third
    os.close(third)


def test_what_cannot_be_locked_is_closed(tmp_path: Path) -> None:
    """The error is raised, and no descriptor stays open."""
    fd = os.open(tmp_path, os.O_PATH)

    with pytest.raises(OSError, match="Bad file descriptor"):
        try_lock(fd)

    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(fd)
