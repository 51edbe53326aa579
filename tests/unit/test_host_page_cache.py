"""What of a file is in the page cache, on the kernel of this machine."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from shim.host import page_cache

SIZE = 20 << 20


@pytest.fixture
def file(tmp_path: Path) -> Iterator[int]:
    """Give an open file on a disk, none of which is in the page cache."""
    path = tmp_path / "file"
    path.write_bytes(bytes(SIZE))
    fd = os.open(path, os.O_RDONLY)
    os.fsync(fd)
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    if page_cache.cached_bytes(fd) != 0:
        pytest.skip("the folder of the test is in memory, or the kernel has no cachestat")
    yield fd
    os.close(fd)


def test_all_of_it_is_read_ahead(file: int) -> None:
    """Each reader has its part."""
    for part in range(page_cache.READERS):
        page_cache.read_ahead(file, part, lambda: False)
    assert page_cache.cached_bytes(file) == SIZE


def test_it_can_be_stopped(file: int) -> None:
    """Nothing more is read."""
    page_cache.read_ahead(file, 0, lambda: True)
    assert page_cache.cached_bytes(file) == 0


def test_a_kernel_that_does_not_say(file: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before 6.5 there is no such call."""
    monkeypatch.setattr(page_cache, "_CACHESTAT", 100_000)
    assert page_cache.cached_bytes(file) is None
