"""A new tar of an OCI layout as a place: it grows as blobs come, with no copy of them elsewhere."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO

from shim.distribution import artifact, layout_index, tar_format
from shim.distribution.blob import Descriptor, outgoing
from shim.distribution.place import Document
from shim.errors import AlreadyExists, FailedPrecondition, NotFound
from shim.host.newfile import NewFile
from shim.host.oserror import typed

_DIR = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC


class ArchiveWriter:
    """A `Place` that becomes an archive; it has its name once a document has a tag.

    That is the last thing that can be stored in it. Without it nothing is left.
    """

    def __init__(self, path: Path) -> None:
        """Begin it.

        Raises:
            AlreadyExists: there is a file of that name.
            NotFound: there is no such folder.
        """
        self._path = path
        self._writing = threading.Lock()
        self._sizes: dict[str, int] = {}
        if os.path.lexists(path):
            raise self._taken()
        try:
            self._folder = os.open(path.parent, _DIR)
            self._file: NewFile | None = NewFile(self._folder)
        except OSError as error:
            raise typed(error, f"write {path}") from error
        self._append(layout_index.MARKER_NAME, len(layout_index.MARKER), [layout_index.MARKER])

    def __str__(self) -> str:
        """Return what messages call it."""
        return f"the archive {self._path}"

    def has_blob(self, descriptor: Descriptor) -> bool:
        """Whether a blob was stored in it."""
        return self._sizes.get(tar_format.blob_name(descriptor.digest)) == descriptor.size

    def put_blob(self, descriptor: Descriptor, content: IO[bytes]) -> None:
        """Append a blob."""
        stream = outgoing(content, descriptor, str(self))
        self._append(tar_format.blob_name(descriptor.digest), descriptor.size, stream)

    def get_blob(self, descriptor: Descriptor) -> Iterator[bytes]:
        """Refuse: it is not read while it is written."""
        raise self._unread(descriptor.digest)

    def put_document(self, document: Document, tag: str | None = None) -> Descriptor:
        """Append a manifest or index; with a tag, complete the archive and give it its name."""
        descriptor = artifact.describe(document)
        self._append(tar_format.blob_name(descriptor.digest), len(document.data), [document.data])
        if tag is not None:
            index = layout_index.tagged(None, descriptor, tag, str(self))
            self._append(layout_index.NAME, len(index), [index])
            self._complete()
        return descriptor

    def get_document(self, tag_or_digest: str) -> Document:
        """Refuse: it is not read while it is written."""
        raise self._unread(tag_or_digest)

    def close(self) -> None:
        """Remove it, unless it is complete. Idempotent."""
        with self._writing:
            if self._file is not None:
                self._file.close()
                self._file = None
                os.close(self._folder)

    def _append(self, name: str, size_bytes: int, content: Iterable[bytes]) -> None:
        """Append a file; after an error it is as if nothing was appended."""
        with self._writing:
            if name in self._sizes:
                return
            file = self._open()
            try:
                at = os.lseek(file.fd, 0, os.SEEK_CUR)
                try:
                    file.write(tar_format.header(name, size_bytes))
                    for piece in content:
                        file.write(piece)
                    file.write(tar_format.padding(size_bytes))
                except BaseException:
                    os.ftruncate(file.fd, at)
                    os.lseek(file.fd, at, os.SEEK_SET)
                    raise
            except OSError as error:
                raise typed(error, f"write {self}") from error
            self._sizes[name] = size_bytes

    def _complete(self) -> None:
        with self._writing:
            file = self._open()
            try:
                file.write(tar_format.END)
                file.commit(self._path.name, replace=False)
                os.fsync(self._folder)
            except FileExistsError as error:
                raise self._taken() from error
            except OSError as error:
                raise typed(error, f"write {self}") from error
        self.close()

    def _open(self) -> NewFile:
        if self._file is None:
            message = f"{self} is complete, or closed: nothing can be added to it"
            raise FailedPrecondition(message)
        return self._file

    def _taken(self) -> AlreadyExists:
        message = f"{self._path} exists"
        return AlreadyExists(message, remedy="choose another path, or remove it first")

    def _unread(self, what: str) -> NotFound:
        return NotFound(f"{self} is being written: {what} cannot be read from it")
