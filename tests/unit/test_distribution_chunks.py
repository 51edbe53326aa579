"""Chunks: they cover the file, end at the same content wherever it is, and leave out zeros."""

from __future__ import annotations

import os
import random
from collections.abc import Iterable
from pathlib import Path

import pytest

from shim.distribution.chunks import MIN_AVERAGE_BYTES, PAGE_BYTES, Cut, average_for, cuts

AVERAGE = 64 * PAGE_BYTES
BLOCK = 64 * PAGE_BYTES


def cut(tmp_path: Path, data: bytes, average: int = AVERAGE) -> list[Cut]:
    """Write a file and cut it; check that the parts cover it."""
    path = tmp_path / "file"
    path.write_bytes(data)
    fd = os.open(path, os.O_RDONLY)
    try:
        parts = list(cuts(fd, len(data), average))
    finally:
        os.close(fd)
    assert b"".join(content(data, parts)) == data
    assert [part.offset for part in parts[1:]] == [part.end for part in parts[:-1]]
    return parts


def content(data: bytes, parts: Iterable[Cut]) -> list[bytes]:
    """Return the bytes of each part."""
    return [data[part.offset : part.end] for part in parts]


def noise(pages: int, seed: int = 1) -> bytes:
    """Return pages of random bytes."""
    return random.Random(seed).randbytes(pages * PAGE_BYTES)


def test_pages_that_move_are_the_same_chunks(tmp_path: Path) -> None:
    """One page more at the start changes the first chunks only."""
    data = noise(4096)
    before = content(data, cut(tmp_path, data))
    moved = noise(1, seed=2) + data

    after = content(moved, cut(tmp_path, moved))

    new = [part for part in after if part not in before]
    assert sum(map(len, new)) <= 2 * 2 * AVERAGE
    assert len(before) > 20


def test_chunks_are_about_as_large_as_asked(tmp_path: Path) -> None:
    """None is larger than twice the average, and none but the last smaller than a quarter."""
    parts = cut(tmp_path, noise(4096))

    assert max(part.length for part in parts) <= 2 * AVERAGE
    assert min(part.length for part in parts[:-1]) >= AVERAGE // 4
    assert AVERAGE / 2 <= 4096 * PAGE_BYTES / len(parts) <= AVERAGE * 1.2


def test_zeros_are_holes(tmp_path: Path) -> None:
    """A block of zeros is a hole, with the data around it in chunks."""
    data = noise(64) + bytes(3 * BLOCK) + noise(64, seed=2) + b"end"

    parts = cut(tmp_path, data, average=1024 * PAGE_BYTES)

    assert [(part.offset, part.length, part.hole) for part in parts] == [
        (0, BLOCK, False),
        (BLOCK, 3 * BLOCK, True),
        (4 * BLOCK, BLOCK + 3, False),
    ]


def test_equal_pages_do_not_make_small_chunks(tmp_path: Path) -> None:
    """Pages that would each end a chunk still make chunks of the least size or more."""
    page = next(
        candidate
        for seed in range(10000)
        if len(cut(tmp_path, (candidate := noise(1, seed)) * 64)) > 1
    )

    parts = cut(tmp_path, page * 512)

    assert {part.length for part in parts[:-1]} == {AVERAGE // 4}


@pytest.mark.parametrize("size", (0, 1, PAGE_BYTES, PAGE_BYTES + 1, BLOCK - 1))
def test_a_small_file_is_one_chunk(tmp_path: Path, size: int) -> None:
    """It has no part if it is empty."""
    assert len(cut(tmp_path, noise(64)[:size], average=MIN_AVERAGE_BYTES)) == (size > 0)


def test_a_truncated_file_ends_earlier(tmp_path: Path) -> None:
    """What is missing is not cut into chunks that could not be read."""
    path = tmp_path / "file"
    path.write_bytes(noise(64))
    fd = os.open(path, os.O_RDONLY)
    try:
        parts = list(cuts(fd, 1 << 30, AVERAGE))
    finally:
        os.close(fd)
    assert all(part.offset <= 64 * PAGE_BYTES for part in parts)


@pytest.mark.parametrize(("gib", "mib"), ((1, 4), (8, 4), (9, 8), (140, 128), (512, 256)))
def test_large_images_have_larger_chunks(gib: int, mib: int) -> None:
    """The number of layers remains below what registries accept."""
    assert average_for(gib << 30) == mib << 20
