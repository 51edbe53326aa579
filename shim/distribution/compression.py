"""zstd, where it takes less time to compress a blob and send it than to send it as it is."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Iterator
from typing import IO, cast

from shim.distribution.artifact import corrupt
from shim.distribution.blob import PIECE_BYTES
from shim.distribution.compress import Compress

# The fastest level: the higher ones compress memory by little more.
_LEVEL = 1
# A blob that is hardly smaller is sent as it is.
_MOST = 0.95
# How much the last blob counts in the rate of the wire.
_WEIGHT = 0.3
# What a hostile blob can make a decompressor keep in memory.
_MAX_WINDOW_BYTES = 64 << 20


class Compressor:
    """Decides for each blob, by a sample of it and by the rate at which others were sent."""

    def __init__(self, mode: Compress) -> None:
        self._mode = mode
        self._counting = threading.Lock()
        self._wire: float | None = None

    def sent(self, size_bytes: int, seconds: float) -> None:
        """Record how long one thread took to send a blob."""
        rate = size_bytes / max(seconds, 1e-9)
        with self._counting:
            known = self._wire if self._wire is not None else rate
            self._wire = known + _WEIGHT * (rate - known)

    def tries(self, sample: bytes) -> bool:
        """Whether a blob with this sample should be compressed: it may be there in that form.

        Until something was sent nothing is known about the wire, and it is tried.
        """
        if self._mode is not Compress.AUTO:
            return self._mode is Compress.ALWAYS
        began_s = time.perf_counter()
        ratio = len(compress(sample)) / len(sample)
        rate = len(sample) / max(time.perf_counter() - began_s, 1e-9)
        return ratio < _MOST and self._is_faster(rate, ratio)

    def pays(self, seconds: float, size_bytes: int, packed_bytes: int) -> bool:
        """Whether a blob should be sent compressed, once it was compressed in so many seconds."""
        if self._mode is not Compress.AUTO:
            return True
        return self._wire is not None and self._is_faster(
            size_bytes / max(seconds, 1e-9), packed_bytes / size_bytes
        )

    def _is_faster(self, rate: float, ratio: float) -> bool:
        """Whether 1 / rate + ratio / wire, the time for a byte, is less than 1 / wire."""
        wire = self._wire
        return wire is None or rate * (1 - ratio) > wire


def compress(data: bytes) -> bytes:
    """Compress a blob."""
    import zstandard  # noqa: PLC0415 - loaded on use

    return zstandard.ZstdCompressor(level=_LEVEL).compress(data)


def decompressed(blob: Iterable[bytes], size_bytes: int, where: str) -> Iterator[bytes]:
    """Yield the content of a compressed blob, which has this size; all of the blob is read.

    Raises:
        ImageCorrupt: it is damaged, or has another size.
    """
    import zstandard  # noqa: PLC0415 - loaded on use

    source = _Source(blob)
    decompressor = zstandard.ZstdDecompressor(max_window_size=_MAX_WINDOW_BYTES)
    left = size_bytes
    try:
        with decompressor.stream_reader(cast("IO[bytes]", source)) as reader:
            # One byte more shows what is too long.
            while data := reader.read(min(PIECE_BYTES, left + 1)):
                left -= len(data)
                if left < 0:
                    break
                yield data
    except zstandard.ZstdError as error:
        raise corrupt(where, f"a compressed blob is damaged: {error}") from error
    source.drain()
    if left:
        raise corrupt(where, "a compressed blob has another size than its part of the file")


class _Source:
    """The pieces of a blob as a stream, which zstd reads."""

    def __init__(self, blob: Iterable[bytes]) -> None:
        self._pieces = iter(blob)

    def read(self, _size: int = -1) -> bytes:
        """Return the next piece."""
        return next(self._pieces, b"")

    def drain(self) -> None:
        """Read the rest, so that the digest of the blob is compared."""
        for _ in self._pieces:
            pass
