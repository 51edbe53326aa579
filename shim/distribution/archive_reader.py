"""A tar of an OCI layout as a place: read without being unpacked."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from shim.distribution import layout_index, tar_format
from shim.distribution.artifact import MAX_DOCUMENT_BYTES, corrupt
from shim.distribution.blob import Descriptor, FileSlice, digest_of, is_digest, pieces, verified
from shim.distribution.place import Document
from shim.errors import FailedPrecondition, NotFound
from shim.host import files
from shim.host.oserror import typed

_FILE = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY


class ArchiveReader:
    """A `Place` that reads an archive; nothing can be stored in it."""

    def __init__(self, path: Path) -> None:
        """Open it and find the files in it.

        Raises:
            NotFound: there is no such file.
            ImageCorrupt: it is not an archive of an OCI layout, or not complete.
        """
        self._path = path
        self._using = threading.Lock()
        try:
            self._fd = os.open(path, _FILE)
        except OSError as error:
            raise typed(error, f"open {path}") from error
        try:
            files.check_regular(self._fd, path)
            self._members = tar_format.members(self._fd, str(self))
        except BaseException:
            self.close()
            raise

    def __str__(self) -> str:
        """Return what messages call it."""
        return f"the archive {self._path}"

    def has_blob(self, descriptor: Descriptor) -> bool:
        """Whether it has a blob of this digest and size."""
        found = self._members.get(tar_format.blob_name(descriptor.digest))
        return found is not None and found.size_bytes == descriptor.size

    def put_blob(self, descriptor: Descriptor, content: IO[bytes]) -> None:
        """Refuse."""
        del descriptor, content
        raise self._unwritten()

    def get_blob(self, descriptor: Descriptor) -> Iterator[bytes]:
        """Yield the content of a blob in pieces; see `Place`."""
        with self._opened(tar_format.blob_name(descriptor.digest)) as stream:
            yield from verified(pieces(stream), descriptor, str(self))

    def put_document(self, document: Document, tag: str | None = None) -> Descriptor:
        """Refuse."""
        del document, tag
        raise self._unwritten()

    def get_document(self, tag_or_digest: str) -> Document:
        """Return a manifest or index by its tag or digest."""
        digest = tag_or_digest
        if not is_digest(digest):
            digest = layout_index.find(self._bounded(layout_index.NAME), digest, str(self)).digest
        data = self._bounded(tar_format.blob_name(digest))
        if digest_of(data) != digest:
            raise corrupt(str(self), f"{digest} was changed")
        return Document(media_type=layout_index.media_type_of(data, str(self)), data=data)

    def close(self) -> None:
        """Close it. Idempotent."""
        with self._using:
            if self._fd >= 0:
                os.close(self._fd)
                self._fd = -1

    def _bounded(self, name: str) -> bytes:
        with self._opened(name) as stream:
            data = b"".join(pieces(stream, MAX_DOCUMENT_BYTES + 1))
        if len(data) > MAX_DOCUMENT_BYTES:
            raise corrupt(str(self), f"{name} is too large")
        return data

    @contextlib.contextmanager
    def _opened(self, name: str) -> Iterator[FileSlice]:
        """Open a file in it, with a descriptor of its own: `close` may be called meanwhile."""
        found = self._members.get(name)
        if found is None:
            message = f"{self} has no {name}"
            raise NotFound(message, remedy="use an archive that `cryo checkpoints export` wrote")
        fd = self._copy()
        try:
            yield FileSlice(fd, found.offset, found.size_bytes)
        except OSError as error:
            raise typed(error, f"read {self}") from error
        finally:
            os.close(fd)

    def _copy(self) -> int:
        with self._using:
            if self._fd < 0:
                message = f"{self} is closed"
                raise FailedPrecondition(message)
            return os.dup(self._fd)

    def _unwritten(self) -> FailedPrecondition:
        message = f"{self} cannot be written to"
        return FailedPrecondition(message, remedy="export to a new file")
