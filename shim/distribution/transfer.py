"""The values of a push and a pull: what is asked for, and what came of it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from shim.distribution.compress import JOBS, Compress
from shim.distribution.key_sources import KeySources
from shim.image.labels import Labels
from shim.image.manifest import Manifest
from shim.image.verify_cache import VerifyCache
from shim.model import Value


class Cipher(Protocol):
    """Encrypts blobs with one data key, as `shim.distribution.cipher`; equal blobs stay equal.

    `wrapped` is the JSON that says how the data key is obtained.
    """

    wrapped: str

    def encrypt(self, data: bytes, media_type: str) -> bytes:
        """Encrypt a blob; `media_type` is the one that it is stored with."""

    def decrypt(self, data: bytes, media_type: str, where: str) -> bytes:
        """Decrypt a blob that has this media type.

        Raises:
            ImageCorrupt: it was not encrypted with this key, or was changed.
        """


class PushOptions(Value):
    """How an image is pushed: by how many threads at once, compressed, encrypted."""

    jobs: int = JOBS
    compress: Compress = Compress.AUTO
    cipher: Cipher | None = None


class Offer(Value):
    """An image elsewhere, before its files are fetched: what decides whether it is wanted.

    `config` is its cryo.json as it is; `signatures` and `fingerprint` are what lies beside its
    files, None if there is nothing; `size_bytes` is the size of the files of the image.
    """

    where: str
    digest: str
    manifest: Manifest
    config: bytes
    signatures: bytes | None = None
    fingerprint: bytes | None = None
    encrypted: bool = False

    @property
    def size_bytes(self) -> int:
        """Return the number of bytes that its files need on a disk, without holes."""
        return self.manifest.size_bytes


class PullOptions(Value):
    """How an image is pulled.

    An encrypted image is decrypted with a key from `keys`; others are refused then. A larger image
    than `max_bytes` is refused.
    """

    jobs: int = JOBS
    keys: KeySources = KeySources()
    max_bytes: int = 1 << 44


class PullTarget(Value):
    """Where a pulled image goes, and what this host has already.

    `path_for` returns the final path; it may depend on what the image is. Chunks of the images
    below `images` are not fetched again. `admit` refuses an image by raising, and `make_room` makes
    room for a number of bytes or raises, both before a chunk is fetched. Fetched files are
    recorded in `verified`, so that a restore does not read them again. The image has `labels` from
    the moment that it has its path.
    """

    path_for: Callable[[Offer], Path]
    images: Path | None = None
    verified: VerifyCache | None = None
    admit: Callable[[Offer], None] | None = None
    make_room: Callable[[int], None] | None = None
    labels: Labels | None = None


class Transfer(Value):
    """What was pushed or pulled.

    `digest` is that of the index. Bytes are those of blobs: what the place had already, or this
    host, is reused. `bytes_total` is the size of the files of the image.
    """

    image_path: str
    digest: str
    bytes_total: int = 0
    bytes_moved: int = 0
    bytes_reused: int = 0
    blobs_moved: int = 0
    blobs_reused: int = 0
    seconds: float = 0.0


class Transferred(Transfer, kw_only=True):
    """What was pushed or pulled: `reference` is where it is elsewhere, `name` its name here."""

    reference: str
    name: str | None = None
