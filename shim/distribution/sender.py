"""Sends the parts of files as blobs: each content once, and none that the place has already."""

from __future__ import annotations

import io
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from typing import IO

from shim import failpoints
from shim.distribution import media
from shim.distribution.artifact import Chunk
from shim.distribution.blob import Descriptor, digest_of
from shim.distribution.compression import Compressor, compress
from shim.distribution.content import Content, Part
from shim.distribution.meter import Meter
from shim.distribution.place import Place
from shim.distribution.transfer import PushOptions
from shim.model import Value


class _Form(Value):
    """A form in which a content can be stored: the blob, and how its bytes are opened."""

    blob: Descriptor
    open: Callable[[], IO[bytes]]


class Sender:
    """Sends to one place; its threads share what was sent.

    `known` are compressed blobs that the place may have, by the digest of their content. `check`
    raises if the push has failed or was cancelled.
    """

    def __init__(
        self,
        place: Place,
        options: PushOptions,
        meter: Meter,
        known: Mapping[str, Descriptor],
        check: Callable[[], None],
    ) -> None:
        self._place = place
        self._cipher = options.cipher
        self._compressor = Compressor(options.compress)
        self._meter = meter
        self._known = known
        self._check = check
        self._sending = threading.Lock()
        self._stored: dict[str, Future[Descriptor]] = {}

    def send(self, part: Part) -> Chunk:
        """Send a part of a file; equal ones are sent once."""
        self._check()
        content = Content(part, self._check)
        blob = self._stored_by_one(content.digest, lambda: self._store(content))
        self._meter.done(part.length)
        return Chunk(
            file=part.file,
            offset=part.offset,
            length=part.length,
            blob=blob,
            content=content.digest,
        )

    def send_small(self, data: bytes, media_type: str) -> Descriptor:
        """Send a small blob that is not a part of a file."""
        form = self._packed(data, media_type)
        if not self._has(form.blob):
            self._put(form)
        return form.blob

    def _stored_by_one(self, digest: str, store: Callable[[], Descriptor]) -> Descriptor:
        """Let the first thread store what several have; the others wait for it."""
        with self._sending:
            first = digest not in self._stored
            future = self._stored.setdefault(digest, Future())
        if first:
            try:
                future.set_result(store())
            except BaseException as error:
                future.set_exception(error)
                raise
        return future.result()

    def _store(self, content: Content) -> Descriptor:
        """Return the blob that has this content; it is sent unless the place has one."""
        known = self._known.get(content.digest)
        if known is not None and self._has(known):
            return known
        plain = self._plain(content)
        if self._has(plain.blob):
            return plain.blob
        chosen = plain
        if self._compressor.tries(content.sample):
            packed, pays = self._compressed(content)
            if self._has(packed.blob):
                return packed.blob
            chosen = packed if pays else plain
        self._put(chosen)
        return chosen.blob

    def _plain(self, content: Content) -> _Form:
        """Return the content as it is, or encrypted if there is a key."""
        if self._cipher is not None:
            return self._packed(content.read(), media.CHUNK)
        blob = _describe(media.CHUNK, content.digest, content.size_bytes)
        return _Form(blob=blob, open=content.open)

    def _compressed(self, content: Content) -> tuple[_Form, bool]:
        """Return the content compressed, and whether it should be sent in that form."""
        began_s = time.monotonic()
        data = compress(content.read())
        seconds = time.monotonic() - began_s
        smaller = len(data) < content.size_bytes
        pays = smaller and self._compressor.pays(seconds, content.size_bytes, len(data))
        return self._packed(data, media.CHUNK + media.ZSTD), pays

    def _packed(self, data: bytes, media_type: str) -> _Form:
        """Return the form of bytes in memory, encrypted if there is a key."""
        if self._cipher is not None:
            media_type += media.ENCRYPTED
            data = self._cipher.encrypt(data, media_type)
        blob = _describe(media_type, digest_of(data), len(data))
        return _Form(blob=blob, open=lambda: io.BytesIO(data))

    def _has(self, blob: Descriptor) -> bool:
        self._check()
        found = self._place.has_blob(blob)
        if found:
            self._meter.reused(blob.size)
        return found

    def _put(self, form: _Form) -> None:
        self._check()
        began_s = time.monotonic()
        with failpoints.around("push.blob"), form.open() as stream:
            self._place.put_blob(form.blob, stream)
        self._compressor.sent(form.blob.size, time.monotonic() - began_s)
        self._meter.moved(form.blob.size)


def _describe(media_type: str, digest: str, size_bytes: int) -> Descriptor:
    return Descriptor(media_type=media_type, digest=digest, size=size_bytes)
