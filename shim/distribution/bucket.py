"""A bucket of an S3-compatible store as a place: an OCI layout below a prefix.

Blobs are stored first, then documents, and the index with the tags last. The index is replaced
only if it is still the one that was read, so that of two pushes at once none loses its tag. In a
store without such conditions each tag has an object of its own instead, in `tags`. All that is read
is bounded, and compared with its digest.
"""

from __future__ import annotations

import hashlib
import random
import threading
import time
from collections.abc import Iterator, Mapping
from typing import IO

from shim.distribution import artifact, layout_index
from shim.distribution.artifact import MAX_DOCUMENT_BYTES, corrupt
from shim.distribution.blob import Descriptor, digest_of, is_digest, outgoing, verified
from shim.distribution.http_options import HttpOptions
from shim.distribution.place import Document
from shim.distribution.reference import BucketRef
from shim.distribution.s3_objects import PART_BYTES, Objects
from shim.errors import Busy, NotFound, Unimplemented

_ATTEMPTS = 30
_LONGEST_WAIT_S = 1.0
_SETTLE_S = 0.05
_NO_VERSION = '"0"'


class Bucket:
    """A `Place` below a prefix of a bucket; `settings` has AWS's variables."""

    def __init__(
        self,
        reference: BucketRef,
        settings: Mapping[str, str],
        options: HttpOptions = HttpOptions(),  # noqa: B008 - a frozen value
    ) -> None:
        self._objects = Objects(reference, settings, options)
        self._lock = threading.Lock()
        # Whether the store has conditional writes; None until something is written.
        self._conditional: bool | None = None

    def __str__(self) -> str:
        """Return what messages call it."""
        return str(self._objects)

    def has_blob(self, descriptor: Descriptor) -> bool:
        """Whether it has a blob of this digest and size."""
        return self._objects.size(_path(descriptor.digest), "look for a blob") == descriptor.size

    def put_blob(self, descriptor: Descriptor, content: IO[bytes]) -> None:
        """Store a blob; it has its name when it is complete."""
        self._make()
        path, doing = _path(descriptor.digest), "store a blob"
        stream = outgoing(content, descriptor, str(self))
        if descriptor.size <= PART_BYTES:
            self._objects.put(path, b"".join(stream), doing)
        else:
            self._objects.put_parts(path, stream, descriptor.size, doing)

    def get_blob(self, descriptor: Descriptor) -> Iterator[bytes]:
        """Yield the content of a blob in pieces; see `Place`."""
        found = self._objects.pieces(_path(descriptor.digest), descriptor.size, "read a blob")
        yield from verified(found, descriptor, str(self))

    def put_document(self, document: Document, tag: str | None = None) -> Descriptor:
        """Store a manifest or index, with a tag if one is given."""
        self._make()
        descriptor = artifact.describe(document)
        self._objects.put(_path(descriptor.digest), document.data, "store a manifest")
        if tag is not None and self._conditional:
            self._tag(descriptor, tag)
        elif tag is not None:
            alone = layout_index.tagged(None, descriptor, tag, str(self))
            self._objects.put(_tag_path(tag), alone, "store a tag")
        return descriptor

    def get_document(self, tag_or_digest: str) -> Document:
        """Return a manifest or index by its tag or digest."""
        digest = tag_or_digest
        if not is_digest(digest):
            digest = self._tagged(digest).digest
        data, _ = self._objects.read(_path(digest), MAX_DOCUMENT_BYTES, "read a manifest")
        if digest_of(data) != digest:
            raise corrupt(str(self), f"the blob {digest} was changed")
        return Document(media_type=layout_index.media_type_of(data, str(self)), data=data)

    def close(self) -> None:
        """End what is under way. Idempotent."""
        self._objects.close()

    def _make(self) -> None:
        """Store the marker of a layout, and so find out whether conditions count."""
        with self._lock:
            if self._conditional is not None:
                return
            try:
                # The first write may make it; another one must fail, and one of another version.
                counts = not self._mark(None) or not self._mark(None)
                self._conditional = counts and not self._mark(_NO_VERSION)
            except Unimplemented:
                name, data = layout_index.MARKER_NAME, layout_index.MARKER
                self._objects.put(name, data, f"store {name}")
                self._conditional = False

    def _mark(self, version: str | None) -> bool:
        name, data = layout_index.MARKER_NAME, layout_index.MARKER
        return self._objects.put_if(name, data, version, f"store {name}")

    def _tagged(self, tag: str) -> Descriptor:
        """Return what has a tag, in the index or an object of its own."""
        index, _ = self._index()
        try:
            return layout_index.find(index, tag, str(self))
        except NotFound as absent:
            try:
                alone, _ = self._objects.read(_tag_path(tag), MAX_DOCUMENT_BYTES, "read a tag")
            except NotFound:
                raise absent from None
            return layout_index.find(alone, tag, str(self))

    def _tag(self, descriptor: Descriptor, tag: str) -> None:
        name = layout_index.NAME
        for attempt in range(_ATTEMPTS):
            index, version = self._index()
            new = layout_index.tagged(index, descriptor, tag, str(self))
            if new == index or self._objects.put_if(name, new, version, f"store {name}"):
                return
            # Another push was faster.
            longest_s = min(_LONGEST_WAIT_S, _SETTLE_S * 2**attempt)
            time.sleep(random.uniform(0, longest_s))  # noqa: S311 - not for secrets
        raise self._busy()

    def _index(self) -> tuple[bytes | None, str | None]:
        """Return its index and the version of that; None if nothing has a tag yet.

        Some stores answer, while it is replaced, with the old content and the new version (in 1 of
        2,000 reads of versitygw 1.8). The version is usually the MD5 of the content, and proves
        itself; otherwise two answers must be equal.
        """
        name, seen = layout_index.NAME, None
        for _ in range(_ATTEMPTS):
            try:
                found = self._objects.read(name, MAX_DOCUMENT_BYTES, f"read {name}")
            except NotFound as error:
                if "NoSuchBucket" in error.message:
                    raise
                return None, None
            if found == seen or found[1] == _md5_version(found[0]):
                return found
            seen = found
            time.sleep(_SETTLE_S)
        raise self._busy()

    def _busy(self) -> Busy:
        message = f"{self}: other pushes replace {layout_index.NAME} all the time"
        return Busy(message, remedy="push again")


def _md5_version(data: bytes) -> str:
    return f'"{hashlib.md5(data, usedforsecurity=False).hexdigest()}"'


def _tag_path(tag: str) -> str:
    return f"tags/{tag}.json"


def _path(digest: str) -> str:
    return f"blobs/{digest.replace(':', '/')}"
