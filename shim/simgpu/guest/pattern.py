"""Memory whose content is always known: a pure function of key, size and generation.

Memory is a ring of slots. Generation `g` rewrites the slot after that of `g - 1`, so at generation
G each slot holds its last rewrite up to G. Memory that lost a step, repeated a step or mixes two
generations differs from `expected(key, size, G)`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator

SLOT = 1 << 16


def slots(size: int) -> int:
    """Return how many slots a memory of `size` bytes has.

    Raises:
        ValueError: `size` is no positive multiple of a slot.
    """
    if size <= 0 or size % SLOT:
        message = f"{size} bytes is no multiple of {SLOT}"
        raise ValueError(message)
    return size // SLOT


def slot_of(size: int, generation: int) -> int:
    """Return the slot that a generation rewrites."""
    return (generation - 1) % slots(size)


def block(key: str, slot: int, generation: int) -> bytes:
    """Return what a generation writes into a slot; generation 0 is the initial content."""
    return hashlib.shake_128(f"{key}/{slot}/{generation}".encode()).digest(SLOT)


def last_write(size: int, slot: int, generation: int) -> int:
    """Return the latest generation up to `generation` that rewrote `slot`, or 0."""
    return max(0, generation - (generation - 1 - slot) % slots(size))


def expected_slot(key: str, size: int, slot: int, generation: int) -> bytes:
    """Return the expected content of a slot at a generation."""
    return block(key, slot, last_write(size, slot, generation))


def expected(key: str, size: int, generation: int) -> Iterator[bytes]:
    """Yield the expected content of the whole memory at a generation, slot by slot."""
    for slot in range(slots(size)):
        yield expected_slot(key, size, slot, generation)


def digest(pieces: Iterable[bytes | bytearray]) -> str:
    """Return the digest of some content, given in pieces."""
    total = hashlib.blake2b(digest_size=16)
    for piece in pieces:
        total.update(piece)
    return total.hexdigest()


def _seed(key: str) -> int:
    return int.from_bytes(hashlib.blake2b(key.encode(), digest_size=8).digest(), "little")


class Weights:
    """Memory that stays constant, like a model's weights: the words of splitmix64.

    The GPU itself can fill and compare it, so it may be as large as the GPU's memory; a sample is
    also read back and compared here. `seed` and the words are unsigned 8-byte numbers.
    Source of the mixing: Steele, Lea and Flood, "Fast splittable pseudorandom number generators",
    2014.
    """

    STEP = 0x9E3779B97F4A7C15
    FACTORS = (0xBF58476D1CE4E5B9, 0x94D049BB133111EB)
    SHIFTS = (30, 27, 31)
    _MASK = (1 << 64) - 1

    def __init__(self, key: str, size: int) -> None:
        self.key = key
        self.size = size
        self.seed = _seed(key)
        self.words = slots(size) * (SLOT // 8)

    def word(self, index: int) -> int:
        """Return the expected word at an index."""
        mixed = (self.seed + (index + 1) * self.STEP) & self._MASK
        for shift, factor in zip(self.SHIFTS, (*self.FACTORS, 1), strict=True):
            mixed = ((mixed ^ mixed >> shift) * factor) & self._MASK
        return mixed

    def slot(self, number: int) -> bytes:
        """Return the expected content of a slot."""
        first = number * (SLOT // 8)
        return b"".join(
            self.word(at).to_bytes(8, "little") for at in range(first, first + SLOT // 8)
        )

    def sample(self) -> list[int]:
        """Return the slots to read back: the first, middle and last."""
        last = slots(self.size) - 1
        return sorted({0, last // 2, last})

    def digest(self, wrong: int, pieces: Iterable[bytes]) -> str:
        """Return the digest of a result: the number of wrong words, and the sample."""
        return digest([str(wrong).encode(), *pieces])

    def expected_digest(self) -> str:
        """Return the digest of intact weights."""
        return self.digest(0, map(self.slot, self.sample()))


def expected_digest(key: str, size: int, generation: int) -> str:
    """Return the expected digest of the whole memory at a generation.

    Example:
        >>> expected_digest("k", SLOT, 0) == digest([block("k", 0, 0)])
        True
    """
    return digest(expected(key, size, generation))
