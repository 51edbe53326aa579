"""The hash of a file, whatever its size is beside that of a batch."""

from __future__ import annotations

import os
from pathlib import Path

import blake3
import pytest

from shim.image import hashing

PIECE, READERS = 64, 3
BATCH = PIECE * READERS


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make batches small, with more than one piece whatever this machine has."""
    monkeypatch.setattr(hashing, "PIECE_BYTES", PIECE)
    monkeypatch.setattr(hashing, "READERS", READERS)


def digest(
    path: Path, expected_bytes: int, on_bytes: hashing.OnBytes = hashing.ignore_bytes
) -> tuple[str, int]:
    """Hash a file that is thought to have so many bytes."""
    with path.open("rb") as file:
        return hashing.digest(file.fileno(), expected_bytes, on_bytes)


@pytest.mark.parametrize(
    "size",
    (0, 1, PIECE - 1, PIECE, PIECE + 1, BATCH - 1, BATCH, BATCH + 1, 2 * BATCH, 5 * BATCH + 7),
)
def test_it_is_the_hash_of_all_bytes(tmp_path: Path, size: int) -> None:
    """Every byte counts, in its place, and the ticks add up to the size."""
    path, ticks = tmp_path / "file", list[int]()
    data = os.urandom(size)
    path.write_bytes(data)

    assert digest(path, size, ticks.append) == (blake3.blake3(data).hexdigest(), size)
    assert sum(ticks) == size


@pytest.mark.parametrize("size", (0, PIECE, BATCH, 2 * BATCH))
def test_a_file_that_has_grown_is_not_read_for_ever(tmp_path: Path, size: int) -> None:
    """It shows in the count, which differs from what was expected."""
    path = tmp_path / "file"
    path.write_bytes(bytes(size + 10 * BATCH))

    _, count = digest(path, size)

    assert size < count <= size + BATCH


@pytest.mark.parametrize("size", (0, PIECE, BATCH + 1))
def test_a_file_that_has_shrunk(tmp_path: Path, size: int) -> None:
    """What is left is hashed, and the count differs."""
    path = tmp_path / "file"
    path.write_bytes(bytes(size))

    assert digest(path, size + 2 * BATCH) == (blake3.blake3(bytes(size)).hexdigest(), size)


def test_a_tick_that_raises_ends_it(tmp_path: Path) -> None:
    """So that a cancelled checkpoint does not hash a whole GPU first."""
    path = tmp_path / "file"
    path.write_bytes(bytes(100 * BATCH))

    def stop(_count: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        digest(path, 100 * BATCH, stop)
