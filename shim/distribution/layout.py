"""An OCI image layout as a place: a folder of blobs, and an index of the manifests with a tag.

Its content may come from anywhere: what is read is bounded, and compared with its digest. A blob
has its name only when it is complete and on the disk, and before the index mentions it.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from shim.distribution import artifact, layout_index
from shim.distribution.artifact import MAX_DOCUMENT_BYTES, corrupt
from shim.distribution.blob import Descriptor, digest_of, is_digest, outgoing, pieces, verified
from shim.distribution.layout_folder import LayoutFolder
from shim.distribution.place import Document
from shim.errors import NotFound
from shim.host.oserror import typed


class Layout:
    """A `Place` in a folder; the first write makes it."""

    def __init__(self, path: Path) -> None:
        self._folder = LayoutFolder(path)
        self._made = False

    def __str__(self) -> str:
        """Return what messages call it."""
        return str(self._folder)

    def has_blob(self, descriptor: Descriptor) -> bool:
        """Whether it has a blob of this digest and size."""
        try:
            with self._folder.blobs() as blobs:
                found = os.stat(_name(descriptor.digest), dir_fd=blobs, follow_symlinks=False)
        except (FileNotFoundError, NotFound):
            return False
        except OSError as error:
            raise typed(error, f"look into {self}") from error
        return stat.S_ISREG(found.st_mode) and found.st_size == descriptor.size

    def put_blob(self, descriptor: Descriptor, content: IO[bytes]) -> None:
        """Store a blob; its name is durable when a document is stored."""
        stream = outgoing(content, descriptor, str(self))
        self._make()
        with self._folder.blobs() as blobs:
            self._folder.put_file(blobs, _name(descriptor.digest), stream)

    def get_blob(self, descriptor: Descriptor) -> Iterator[bytes]:
        """Yield the content of a blob in pieces; see `Place`."""
        with (
            self._folder.blobs() as blobs,
            self._folder.open_file(blobs, _name(descriptor.digest)) as file,
        ):
            yield from verified(pieces(file), descriptor, str(self))

    def put_document(self, document: Document, tag: str | None = None) -> Descriptor:
        """Store a manifest or index, with a tag if one is given."""
        descriptor = artifact.describe(document)
        self._make()
        with self._folder.blobs() as blobs:
            self._folder.put_file(blobs, _name(descriptor.digest), [document.data])
            self._folder.sync(blobs)
        if tag is not None:
            with self._folder.root() as root, self._folder.locked(root):
                index = layout_index.tagged(self._index(root), descriptor, tag, str(self))
                self._folder.put_file(root, layout_index.NAME, [index])
                self._folder.sync(root)
        return descriptor

    def get_document(self, tag_or_digest: str) -> Document:
        """Return a manifest or index by its tag or digest."""
        digest = tag_or_digest
        if not is_digest(digest):
            with self._folder.root() as root:
                digest = layout_index.find(self._index(root), digest, str(self)).digest
        with self._folder.blobs() as blobs:
            data = self._bounded(blobs, _name(digest))
        if digest_of(data) != digest:
            raise corrupt(str(self), f"the blob {digest} was changed")
        return Document(media_type=layout_index.media_type_of(data, str(self)), data=data)

    def close(self) -> None:
        """Do nothing: nothing is open between calls."""

    def _make(self) -> None:
        if not self._made:
            self._folder.make()
            self._made = True

    def _index(self, root: int) -> bytes | None:
        """Return its index.json; None if nothing has a tag yet."""
        try:
            return self._bounded(root, layout_index.NAME)
        except NotFound:
            return None

    def _bounded(self, folder: int, name: str) -> bytes:
        with self._folder.open_file(folder, name) as file:
            data = b"".join(pieces(file, MAX_DOCUMENT_BYTES + 1))
        if len(data) > MAX_DOCUMENT_BYTES:
            raise corrupt(str(self), f"{name} is too large")
        return data


def _name(digest: str) -> str:
    return digest.removeprefix("sha256:")
