"""Where images are stored elsewhere: a registry, a bucket, an OCI layout, an archive.

All methods block, and are called from several threads at once. Every wait has a timeout, and
`close` may be called while others run.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import IO, Protocol

from shim.distribution.blob import Descriptor
from shim.model import Value


class Document(Value):
    """An OCI manifest or index as it is stored: its bytes, and the media type that they have."""

    media_type: str
    data: bytes


class Place(Protocol):
    """A store of blobs and of documents with tags.

    Errors are those of `shim.errors`: NotFound, PermissionDenied (no or wrong credentials; the
    remedy says which file or variable), Unavailable (no connection, 503 after the retries, a server
    that ended half way), ResourceExhausted (429 after the retries, or no space), ImageCorrupt
    (other bytes than those of the descriptor), DeadlineExceeded.
    """

    def has_blob(self, descriptor: Descriptor) -> bool:
        """Whether it has a blob of this digest and size."""

    def put_blob(self, descriptor: Descriptor, content: IO[bytes]) -> None:
        """Store a blob; `content` can seek, so that an upload can be retried."""

    def get_blob(self, descriptor: Descriptor) -> Iterator[bytes]:
        """Yield the content of a blob in pieces.

        It ends with an error, after the last piece, if the content has another size or digest than
        the descriptor: the caller must not use it before it has ended.
        """

    def put_document(self, document: Document, tag: str | None = None) -> Descriptor:
        """Store a manifest or index, with a tag if one is given; all it refers to is stored."""

    def get_document(self, tag_or_digest: str) -> Document:
        """Return a manifest or index by its tag or digest, checked if it is a digest.

        Raises:
            NotFound: there is none.
        """

    def close(self) -> None:
        """Close connections and files. Idempotent."""
