"""Fills the files of an image that is being pulled, part by part, with what is not there yet."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Mapping

from shim import failpoints
from shim.distribution import media
from shim.distribution.artifact import Chunk, corrupt
from shim.distribution.blob import FileSlice, digest_of_stream
from shim.distribution.chunk_map import ChunkMap, Entry
from shim.distribution.compression import decompressed
from shim.distribution.local_chunks import LocalChunks
from shim.distribution.meter import Meter
from shim.distribution.place import Place
from shim.distribution.prefix import Prefix
from shim.distribution.remote import Remote
from shim.host import writeback
from shim.host.oserror import typed


class Receiver:
    """Fetches chunks into open files; it is used by several threads."""

    def __init__(
        self,
        place: Place,
        remote: Remote,
        fds: Mapping[str, int],
        journal: ChunkMap,
        local: LocalChunks,
        prefix: Prefix,
        meter: Meter,
        check: Callable[[], None],
    ) -> None:
        self._place = place
        self._cipher = remote.cipher
        self._where = remote.offer.where
        self._fds = fds
        self._journal = journal
        self._known = {
            (entry.file, entry.offset, entry.length): entry.digest for entry in journal.entries
        }
        self._local = local
        self._prefix = prefix
        self._meter = meter
        self._check = check

    def receive(self, chunk: Chunk) -> None:
        """Write a chunk to its file, unless it is there already."""
        self._check()
        if self._is_there(chunk):
            self._meter.reused(chunk.blob.size)
        else:
            with failpoints.around("pull.chunk"):
                digest = self._copy(chunk) or self._fetch(chunk)
            self._note(chunk, digest)
            writeback.start(self._fds[chunk.file], chunk.offset, chunk.length)
        self._meter.done(chunk.length)
        self._prefix.finished(chunk)

    def _is_there(self, chunk: Chunk) -> bool:
        """Whether an earlier pull has written it: its bytes are hashed again."""
        known = self._known.get((chunk.file, chunk.offset, chunk.length))
        if known is None or known != (chunk.digest or known):
            return False
        return self._digest(chunk) == known

    def _copy(self, chunk: Chunk) -> str | None:
        """Copy a chunk from another image of this host; return its digest, None if none has it."""
        if chunk.digest is None or not self._local.copy(chunk, self._fds[chunk.file]):
            return None
        # The other image may have been damaged since its chunks were recorded.
        if self._digest(chunk) != chunk.digest:
            return None
        self._meter.reused(chunk.blob.size)
        return chunk.digest

    def _digest(self, chunk: Chunk) -> str:
        """Return the digest of what a file has where a chunk belongs."""
        stream = FileSlice(self._fds[chunk.file], chunk.offset, chunk.length)
        return digest_of_stream(stream, self._check)

    def _fetch(self, chunk: Chunk) -> str:
        """Fetch and write a chunk; return the digest of its content."""
        content = self._content(chunk)
        hasher = hashlib.sha256()
        known = chunk.digest
        at = chunk.offset
        for piece in content:
            self._check()
            if at + len(piece) > chunk.end:
                raise corrupt(self._where, "a blob is larger than its part of the file")
            self._write(chunk, piece, at)
            if known is None:
                hasher.update(piece)
            at += len(piece)
        if at != chunk.end:
            raise corrupt(self._where, "a blob is smaller than its part of the file")
        self._meter.moved(chunk.blob.size)
        return known or f"sha256:{hasher.hexdigest()}"

    def _content(self, chunk: Chunk) -> Iterator[bytes]:
        """Yield the bytes of a chunk; it is the content of a blob that is checked at its end."""
        kind = chunk.blob.media_type
        content: Iterator[bytes] = self._place.get_blob(chunk.blob)
        if self._cipher is not None:
            whole = b"".join(content)
            content = iter((self._cipher.decrypt(whole, kind, self._where),))
            kind = kind.removesuffix(media.ENCRYPTED)
        if kind.endswith(media.ZSTD):
            content = decompressed(content, chunk.length, self._where)
        return content

    def _write(self, chunk: Chunk, piece: bytes, at: int) -> None:
        left = memoryview(piece)
        try:
            while left:
                count = os.pwrite(self._fds[chunk.file], left, at)
                left, at = left[count:], at + count
        except OSError as error:
            raise typed(error, f"write {chunk.file}") from error

    def _note(self, chunk: Chunk, digest: str) -> None:
        with failpoints.around("pull.journal"):
            self._journal.add(
                Entry(file=chunk.file, offset=chunk.offset, length=chunk.length, digest=digest)
            )
