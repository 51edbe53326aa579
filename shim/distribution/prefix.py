"""BLAKE3 of files that are being filled, in order, as far as nothing is missing."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Mapping

from shim.distribution.artifact import Chunk
from shim.image import hashing
from shim.image.manifest import ImageFile

_PIECE_BYTES = 4 << 20
_WAIT_S = 0.1


class Prefix:
    """Hashes files behind those who write them; `check` raises if the transfer has ended."""

    def __init__(
        self, fds: Mapping[str, int], chunks: Iterable[Chunk], check: Callable[[], None]
    ) -> None:
        self._fds = fds
        self._check = check
        self._changed = threading.Condition()
        self._missing: dict[str, list[int]] = {name: [] for name in fds}
        for chunk in chunks:
            self._missing[chunk.file].append(chunk.offset)
        for offsets in self._missing.values():
            offsets.sort(reverse=True)
        self._done: set[tuple[str, int]] = set()

    def finished(self, chunk: Chunk) -> None:
        """Let a chunk that has been written be hashed."""
        with self._changed:
            self._done.add((chunk.file, chunk.offset))
            missing = self._missing[chunk.file]
            while missing and (chunk.file, missing[-1]) in self._done:
                missing.pop()
            self._changed.notify_all()

    def hash(self, file: ImageFile) -> str:
        """Return the BLAKE3 of a whole file, which is waited for."""
        hasher = hashing.new_hasher()
        at = 0
        while at < file.size_bytes:
            ready = self._ready(file, at)
            while at < ready:
                piece = os.pread(self._fds[file.name], min(_PIECE_BYTES, ready - at), at)
                if not piece:
                    return ""
                hasher.update(piece)
                at += len(piece)
        return hasher.hexdigest()

    def _ready(self, file: ImageFile, at: int) -> int:
        """Wait until more than `at` bytes can be read; return how many."""
        with self._changed:
            while True:
                self._check()
                missing = self._missing[file.name]
                ready = missing[-1] if missing else file.size_bytes
                if ready > at:
                    return ready
                self._changed.wait(_WAIT_S)
