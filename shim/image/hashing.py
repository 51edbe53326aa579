"""BLAKE3 of a file that may be as large as a GPU, on all cores."""

from __future__ import annotations

import mmap
import os
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial

import blake3

# Large enough for BLAKE3 to use all cores, small enough to stop soon when cancelled.
PIECE_BYTES = 4 << 20
_CORES = len(os.sched_getaffinity(0))
# One core copies from the page cache more slowly than several cores hash.
READERS = max(1, min(4, _CORES // 2))

OnBytes = Callable[[int], None]
"""Called with the number of bytes just processed; it may raise to stop the work."""


def ignore_bytes(_count: int) -> None:
    """Do nothing."""


def digest(fd: int, expected_bytes: int, on_bytes: OnBytes) -> tuple[str, int]:
    """Hash from the start to the end, or until the file has grown beyond the expected size.

    Returns the hash in hexadecimal, and the number of bytes hashed. While one batch is hashed, the
    next is read, in concurrent pieces.
    """
    hasher = new_hasher()
    batch_bytes = min(PIECE_BYTES * READERS, expected_bytes + 1)
    # Not from the heap, which would keep it for each thread that has hashed.
    halves = [memoryview(mmap.mmap(-1, batch_bytes)) for _ in range(2)]
    at = 0
    with ThreadPoolExecutor(READERS, thread_name_prefix="hash") as pool:
        coming = _read(pool, fd, at, halves[0])
        while True:
            batch = sum(one.result() for one in coming)
            following = at + batch
            more = batch == batch_bytes and following <= expected_bytes
            if more:
                coming = _read(pool, fd, following, halves[1])
            hasher.update(halves[0][:batch])
            on_bytes(batch)
            at = following
            if not more:
                return hasher.hexdigest(), at
            halves.reverse()


def _read(pool: ThreadPoolExecutor, fd: int, at: int, into: memoryview) -> list[Future[int]]:
    """Start to fill a batch; the sum of the results is its size."""
    starts = range(0, len(into), PIECE_BYTES)
    return [
        pool.submit(partial(fill, fd, at + start, into[start : start + PIECE_BYTES]))
        for start in starts
    ]


def fill(fd: int, at: int, into: memoryview) -> int:
    """Read until the piece is full or the file ends; return the number of bytes."""
    done = 0
    while done < len(into) and (count := os.preadv(fd, [into[done:]], at + done)):
        done += count
    return done


def new_hasher() -> blake3.blake3:
    """Return a hasher for a large file that is given piece by piece; it uses all cores."""
    return blake3.blake3(max_threads=blake3.blake3.AUTO)
