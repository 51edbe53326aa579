"""The objects below a prefix of a bucket: reads, writes and conditional writes, from threads."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from datetime import timedelta
from typing import Any, TypeVar

import obstore
from obstore.exceptions import AlreadyExistsError, BaseError, PreconditionError
from obstore.store import S3Store

from shim.distribution import s3_errors, s3_settings
from shim.distribution.artifact import corrupt
from shim.distribution.async_calls import AsyncCalls
from shim.distribution.http_options import HttpOptions
from shim.distribution.reference import BucketRef
from shim.errors import Cancelled, NotFound

T = TypeVar("T")
# Larger objects are stored and read in parts of this size, each by a request of its own.
PART_BYTES = 16 << 20
_MAX_PARTS = 10_000
_PARTS_AT_ONCE = 2
_PIECE_BYTES = 1 << 20


class Objects:
    """Objects by their path below the prefix; `str` is what messages call the prefix.

    The errors of all methods are those of `Place`, with what they are `doing`.
    """

    def __init__(
        self, reference: BucketRef, settings: Mapping[str, str], options: HttpOptions
    ) -> None:
        self._where = str(reference).rpartition(":")[0]
        self._options = options
        self._store = _store(reference, settings, options)
        self._calls = AsyncCalls("bucket")

    def __str__(self) -> str:
        return self._where

    def size(self, path: str, doing: str) -> int | None:
        """Return the size of an object; None if there is none."""
        try:
            found = self._call(lambda: obstore.head_async(self._store, path), doing)
        except NotFound:
            return None
        return found["size"]

    def put(self, path: str, data: bytes, doing: str) -> None:
        """Store an object."""
        self._call(lambda: obstore.put_async(self._store, path, data, use_multipart=False), doing)

    def put_parts(self, path: str, stream: Iterable[bytes], size_bytes: int, doing: str) -> None:
        """Store a large object; it exists when all is stored, and not if the stream raises."""
        part_bytes = max(PART_BYTES, -(-size_bytes // _MAX_PARTS))
        self._call(
            lambda: obstore.put_async(
                self._store,
                path,
                self._stopping(stream, doing),
                use_multipart=True,
                chunk_size=part_bytes,
                max_concurrency=_PARTS_AT_ONCE,
            ),
            doing,
            size_bytes,
        )

    def put_if(self, path: str, data: bytes, version: str | None, doing: str) -> bool:
        """Store an object if it has this version, or does not exist; return whether it did."""
        mode: Any = {"e_tag": version} if version else "create"

        async def put() -> bool:
            try:
                await obstore.put_async(self._store, path, data, mode=mode, use_multipart=False)
            except (AlreadyExistsError, PreconditionError):
                return False
            return True

        return self._call(put, doing)

    def read(self, path: str, limit_bytes: int, doing: str) -> tuple[bytes, str | None]:
        """Return a small object and its version."""
        found = self._call(lambda: obstore.get_async(self._store, path), doing)
        data = bytearray()
        for piece in self._stream(found, doing):
            data += piece
            if len(data) > limit_bytes:
                raise corrupt(self._where, f"{path} is too large")
        return bytes(data), found.meta["e_tag"]

    def pieces(self, path: str, size_bytes: int, doing: str) -> Iterator[bytes]:
        """Yield an object of this size, each part by a request of its own, with a deadline."""
        for start in range(0, size_bytes, PART_BYTES):
            part = (start, min(start + PART_BYTES, size_bytes))
            found = self._call(
                lambda part=part: obstore.get_async(  # type: ignore[misc]  # a default binds it
                    self._store, path, options={"range": part}
                ),
                doing,
            )
            if found.meta["size"] != size_bytes:
                raise corrupt(self._where, f"{path} has another size")
            yield from self._stream(found, doing)

    def close(self) -> None:
        """End what is under way. Idempotent."""
        self._calls.close()

    def _stream(self, found: Any, doing: str) -> Iterator[bytes]:
        stream = aiter(found.stream(min_chunk_size=_PIECE_BYTES))
        while (piece := self._call(lambda: anext(stream, None), doing)) is not None:
            yield bytes(piece)

    def _stopping(self, stream: Iterable[bytes], doing: str) -> Iterator[bytes]:
        for piece in stream:
            if self._calls.closed:
                message = f"cancelled: {doing}"
                raise Cancelled(message)
            yield piece

    def _call(self, work: Callable[[], Awaitable[T]], doing: str, size_bytes: int = 0) -> T:
        deadline_s = self._options.deadline_s(max(size_bytes, PART_BYTES)) * self._options.attempts
        try:
            return self._calls.call(work, deadline_s, f"{doing} of {self._where}")
        except (BaseError, FileNotFoundError) as error:
            raise s3_errors.of(error, self._where, doing) from error


def _store(reference: BucketRef, settings: Mapping[str, str], options: HttpOptions) -> S3Store:
    config = s3_settings.config_of(settings, options)
    provider: Any = s3_settings.provider_of(config)
    client: Any = {
        "allow_http": config["endpoint"].startswith("http://"),
        "connect_timeout": timedelta(seconds=options.connect_s),
        "read_timeout": timedelta(seconds=options.answer_s),
        "timeout": timedelta(seconds=options.deadline_s(PART_BYTES)),
    }
    if (ca := s3_settings.ca_of(settings, options)) is not None:
        client["root_certificate"] = ca
    return S3Store(
        reference.bucket,
        prefix=reference.prefix,
        client_options=client,
        retry_config={
            "max_retries": options.attempts - 1,
            "backoff": {"init_backoff": timedelta(seconds=options.backoff_s)},
            "retry_timeout": timedelta(seconds=options.patience_s),
        },
        credential_provider=provider,
        **config,
    )
