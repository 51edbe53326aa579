"""A registry as a place of images: the endpoints of the OCI distribution specification.

Import it on use: it loads urllib3.
"""

from __future__ import annotations

from collections.abc import Iterator
from http import HTTPStatus
from typing import IO

from shim.distribution import artifact, media
from shim.distribution.authorization import Access
from shim.distribution.blob import Descriptor, digest_of, is_digest
from shim.distribution.connections import Broken, Exchange
from shim.distribution.download import Download
from shim.distribution.endpoint import endpoint_of
from shim.distribution.http_options import HttpOptions
from shim.distribution.place import Document
from shim.distribution.reference import RegistryRef
from shim.distribution.registry_client import Call, RegistryClient
from shim.distribution.retry import retrying
from shim.distribution.upload import Upload
from shim.host.text import printable

_ACCEPT = f"{media.INDEX}, {media.MANIFEST}"
_MAX_TYPE_CHARS = 255


class Registry:
    """A repository of a registry; see `shim.distribution.place.Place`."""

    def __init__(self, reference: RegistryRef, options: HttpOptions) -> None:
        self._client = RegistryClient(endpoint_of(reference, options), options)
        self._shown = f"{reference.host}/{reference.repository}"

    def has_blob(self, descriptor: Descriptor) -> bool:
        """Whether it has a blob of this digest and size."""
        call = self._call(
            "HEAD",
            self._client.endpoint.at("blobs", descriptor.digest),
            f"look for {descriptor.digest}",
            (HTTPStatus.OK, HTTPStatus.NOT_FOUND),
        )
        exchange = self._client.send(call)
        exchange.close()
        if exchange.status == HTTPStatus.NOT_FOUND:
            return False
        return exchange.length in {None, descriptor.size}

    def put_blob(self, descriptor: Descriptor, content: IO[bytes]) -> None:
        """Store a blob; `content` is read from its start for each attempt."""
        Upload(self._client, descriptor, content).run()

    def get_blob(self, descriptor: Descriptor) -> Iterator[bytes]:
        """Yield the content of a blob; it ends with an error if it is another content."""
        return Download(self._client, descriptor).pieces()

    def put_document(self, document: Document, tag: str | None = None) -> Descriptor:
        """Store a manifest or index, with a tag if one is given."""
        descriptor = artifact.describe(document)
        name = tag or descriptor.digest
        call = self._call(
            "PUT",
            self._client.endpoint.at("manifests", name),
            f"push {self._named(name)}",
            (HTTPStatus.CREATED,),
            access=Access.PUSH,
            headers={"Content-Type": document.media_type},
            body=document.data,
        )
        self._client.send(call).close()
        return descriptor

    def get_document(self, tag_or_digest: str) -> Document:
        """Return a manifest or index by its tag or digest.

        Raises:
            ImageCorrupt: it is too large, or another one than of this digest.
            NotFound: there is none.
        """
        options, closed = self._client.options, self._client.connections.closed
        return retrying(lambda: self._document(tag_or_digest), options, closed)

    def close(self) -> None:
        """End what runs, and close the connections. Idempotent."""
        self._client.close()

    def _document(self, name: str) -> Document:
        call = self._call(
            "GET",
            self._client.endpoint.at("manifests", name),
            f"read {self._named(name)}",
            (HTTPStatus.OK,),
            headers={"Accept": _ACCEPT},
        )
        exchange = self._client.send_once(call)
        try:
            data = self._read(exchange, name)
        except Broken as broken:
            raise self._client.broken(broken, call.url, call.doing) from broken
        finally:
            exchange.close()
        # The digest of the registry's header is not used: it is the registry's word.
        if is_digest(name) and digest_of(data) != name:
            raise artifact.corrupt(self._named(name), "it has another content")
        kind = exchange.headers.get("Content-Type", "").partition(";")[0].strip()
        return Document(media_type=printable(kind, _MAX_TYPE_CHARS), data=data)

    def _read(self, exchange: Exchange, name: str) -> bytes:
        limit = artifact.MAX_DOCUMENT_BYTES
        is_small = exchange.length is None or exchange.length <= limit
        found = exchange.read(limit) if is_small else None
        if found is None:
            raise artifact.corrupt(self._named(name), f"its manifest has more than {limit} bytes")
        return found

    def _call(
        self,
        method: str,
        url: str,
        doing: str,
        expected: tuple[HTTPStatus, ...],
        *,
        access: Access = Access.PULL,
        headers: dict[str, str] | None = None,
        body: bytes | None = None,
    ) -> Call:
        return Call(
            method=method,
            url=url,
            doing=doing,
            access=access,
            expected=frozenset(map(int, expected)),
            headers=headers or {},
            body=body,
            deadline_s=self._client.options.deadline_s(artifact.MAX_DOCUMENT_BYTES),
        )

    def _named(self, name: str) -> str:
        return f"{self._shown}{'@' if is_digest(name) else ':'}{name}"
