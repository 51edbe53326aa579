"""Cuts a file into chunks at pages that are chosen by their content, and finds what is zeros.

runsc writes the pages in use one after the other, so one page more near the start moves all that
follow: of two snapshots of a container of 1 GiB, 160 MiB of which changed between them, chunks of a
fixed size from 1 to 64 MiB have nothing in common, and chunks that end at the same content 84 %
(runsc 2026-09). Where a page ends a chunk depends on its first bytes alone.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Callable, Iterator

from shim.model import Value

PAGE_BYTES = 4096
# The size of chunks on average, of a small image: smaller ones share more and need more requests.
MIN_AVERAGE_BYTES = 4 << 20
# The number of chunks that an image should not exceed, as registries limit the layers.
_MAX_CHUNKS = 2048
# What decides whether a chunk ends with a page; a part of the page is enough and read faster.
_HEAD_BYTES = 256
# Zeros are left out in blocks of this size.
_BLOCK_BYTES = 256 << 10
_PIECE_BYTES = 4 << 20
_ZEROS = bytes(_BLOCK_BYTES)


class Cut(Value):
    """A part of a file, in bytes; all of it is zeros if it is a `hole`."""

    offset: int
    length: int
    hole: bool = False

    @property
    def end(self) -> int:
        """Return the offset of the first byte after it."""
        return self.offset + self.length


def average_for(size_bytes: int) -> int:
    """Return the average size of the chunks of a file, a power of two, for its size in bytes."""
    average = MIN_AVERAGE_BYTES
    while size_bytes > average * _MAX_CHUNKS:
        average *= 2
    return average


def cuts(
    fd: int, size_bytes: int, average: int, on_piece: Callable[[bytes], object] | None = None
) -> Iterator[Cut]:
    """Cut an open file of this size; the parts are in order and cover it.

    `on_piece` is called with all that is read, in order.

    A part has a quarter to twice the average size, except at the end and beside holes. A file that
    is truncated meanwhile ends earlier.
    """
    start, in_hole = 0, False
    for offset, block in _blocks(fd, size_bytes, on_piece or len):
        if (block == _ZEROS) != in_hole:
            if offset > start:
                yield Cut(offset=start, length=offset - start, hole=in_hole)
            start, in_hole = offset, not in_hole
        if in_hole:
            continue
        for end in _ends(block, offset, start, average):
            yield Cut(offset=start, length=end - start)
            start = end
    if start < size_bytes:
        yield Cut(offset=start, length=size_bytes - start, hole=in_hole)


def _ends(block: bytes, offset: int, start: int, average: int) -> list[int]:
    """Return the offsets at which chunks end in a block, for a chunk that begins at `start`."""
    least, most, mask = average // 4, average * 2, average // 2 // PAGE_BYTES - 1
    found = []
    page = max(0, start + least - offset - PAGE_BYTES)
    page += -page % PAGE_BYTES
    while page + PAGE_BYTES <= len(block):
        end = offset + page + PAGE_BYTES
        if end - start >= most or not zlib.crc32(block[page : page + _HEAD_BYTES]) & mask:
            found.append(end)
            start = end
            page += least
        else:
            page += PAGE_BYTES
    return found


def _blocks(
    fd: int, size_bytes: int, on_piece: Callable[[bytes], object]
) -> Iterator[tuple[int, bytes]]:
    for at in range(0, size_bytes, _PIECE_BYTES):
        piece = os.pread(fd, min(_PIECE_BYTES, size_bytes - at), at)
        on_piece(piece)
        for within in range(0, len(piece), _BLOCK_BYTES):
            yield at + within, piece[within : within + _BLOCK_BYTES]
