"""Compression: only where it is faster than the wire, and never larger than promised."""

from __future__ import annotations

import random

import pytest

from shim.distribution.compress import Compress
from shim.distribution.compression import Compressor, compress, decompressed
from shim.errors import ImageCorrupt

WHERE = "r.example/a:v1"
TEXT = b"the same again and again " * 10_000
NOISE = random.Random(1).randbytes(250_000)


def pieces(data: bytes, size: int = 1000) -> list[bytes]:
    """Cut it."""
    return [data[at : at + size] for at in range(0, len(data), size)]


def test_what_was_compressed_is_decompressed() -> None:
    """Whatever the pieces are in which it arrives."""
    for size in (1, 7, 100, 1 << 20):
        found = b"".join(decompressed(pieces(compress(TEXT[:3000]), size), 3000, WHERE))
        assert found == TEXT[:3000]


@pytest.mark.parametrize("size", (0, len(TEXT) - 1, len(TEXT) + 1))
def test_another_size_is_refused(size: int) -> None:
    """No more than one byte beyond the expected size is produced."""
    found: list[int] = []
    with pytest.raises(ImageCorrupt, match="another size"):
        found.extend(map(len, decompressed(pieces(compress(TEXT)), size, WHERE)))
    assert sum(found) <= size


@pytest.mark.parametrize(
    "data",
    (compress(TEXT)[:-1], compress(TEXT)[:10], b"", NOISE, compress(TEXT)[:20] + NOISE),
    ids=("cut", "head", "nothing", "noise", "damaged"),
)
def test_damage_is_refused(data: bytes) -> None:
    """It is this error, whatever the library calls it."""
    with pytest.raises(ImageCorrupt) as caught:
        list(decompressed(pieces(data), len(TEXT), WHERE))
    assert caught.value.remedy


def test_a_small_blob_that_becomes_large_stays_small_in_memory() -> None:
    """A gigabyte of zeros is refused after the first byte that is too many."""
    bomb = compress(bytes(256 << 20))
    assert len(bomb) < 1 << 16

    found: list[int] = []
    with pytest.raises(ImageCorrupt):
        found.extend(map(len, decompressed([bomb], 5 << 20, WHERE)))
    assert sum(found) == 5 << 20
    assert max(found) <= 1 << 20


def test_compression_pays_on_a_slow_wire() -> None:
    """On a fast one it does not, and noise is never compressed."""
    slow, fast = Compressor(Compress.AUTO), Compressor(Compress.AUTO)
    slow.sent(1000, 1.0)
    fast.sent(1 << 40, 1.0)

    assert slow.tries(TEXT)
    assert slow.pays(0.1, len(TEXT), 1000)
    assert not fast.tries(TEXT)
    assert not fast.pays(0.1, len(TEXT), 1000)
    assert not slow.tries(NOISE)


def test_before_anything_is_sent_nothing_is_sent_compressed() -> None:
    """It is tried, because the place may have it in that form."""
    fresh = Compressor(Compress.AUTO)

    assert fresh.tries(TEXT)
    assert not fresh.pays(0.1, len(TEXT), 1000)


def test_the_caller_can_decide() -> None:
    """Always and never are just that."""
    assert Compressor(Compress.ALWAYS).tries(NOISE)
    assert Compressor(Compress.ALWAYS).pays(1e9, 1000, 999)
    assert not Compressor(Compress.NEVER).tries(TEXT)
