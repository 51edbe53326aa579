"""The verification cache: files that this host has read completely and that have not changed since.

It protects against accidents, not against root: anyone who can write images can write this as well.
"""

from __future__ import annotations

import contextlib
import os
import random
from pathlib import Path

import msgspec

from shim import failpoints
from shim.errors import CryoError
from shim.host.files import private_dir, read_bounded, write_atomic
from shim.image import manifest as manifests
from shim.image.directory import Identity, ImageDir, open_image_dir
from shim.image.manifest import NAME, Manifest
from shim.model import Value

_MAX_BYTES = 4 << 20
_MAX_COPIES = 8
_SUFFIX = ".json"
# How many entries are checked when one is written, and at most at the start.
_CHECKED = 16
_MAX_PRUNED = 10_000


class _Copy(Value):
    """A directory in which an image was read: the identity of each file by name."""

    image: str
    files: dict[str, Identity]


class _Entry(Value):
    """The copies of one image that this host has read, newest last."""

    copies: tuple[_Copy, ...] = ()


class Known(Value):
    """What this host knew of an image when it was asked: the copies that it has read."""

    copies: tuple[_Copy, ...] = ()

    @property
    def is_read(self) -> bool:
        """Whether an image with this content was sealed or read completely on this host."""
        return bool(self.copies)

    def covers(self, name: str, found: Identity) -> bool:
        """Whether this file was sealed or read completely on this host, and not changed since."""
        return any(copy.files.get(name) == found for copy in self.copies)


class VerifyCache:
    """A directory with one small file per manifest digest; losing it only costs time.

    The entry of an image that has changed since stays: this host has read its content before.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def known(self, manifest: Manifest) -> Known:
        """Return what this host knows of an image."""
        return Known(copies=self._read(manifest.digest).copies)

    def remember(self, manifest: Manifest, image: Path, files: dict[str, Identity]) -> bool:
        """Record that these files have the sealed content; return whether it could be written.

        Each call also checks a few entries, and drops those of images that were removed.
        """
        found = _Copy(image=str(image), files=files)
        rest = [copy for copy in self.known(manifest).copies if copy.image != found.image]
        entry = _Entry(copies=(*rest, found)[-_MAX_COPIES:])
        try:
            with failpoints.around("image.verify-cache"):
                private_dir(self._folder)
                write_atomic(self._path(manifest), msgspec.json.encode(entry))
        except CryoError:
            return False  # not an error: the image is only read again
        self.prune(_CHECKED)
        return True

    def remember_image(self, image: Path, manifest: Manifest) -> bool:
        """Record an image that was just sealed; one that is not sealed is not recorded."""
        return not manifest.sealed or self.remember(manifest, image, identities(image))

    def prune(self, most: int = _MAX_PRUNED) -> None:
        """Drop the entries of images that were removed or changed; check at most `most` entries."""
        try:
            with os.scandir(self._folder) as entries:
                names = [entry.name for entry in entries if entry.name.endswith(_SUFFIX)]
        except OSError:
            return  # nothing was written yet
        for name in random.sample(names, min(most, len(names))):
            digest = name.removesuffix(_SUFFIX)
            if not any(_is_there(copy, digest) for copy in self._read(digest).copies):
                self.forget(digest)

    def forget(self, digest: str) -> None:
        """Drop the entry of an image; one that cannot be dropped is only checked again later."""
        with contextlib.suppress(OSError):
            self._entry_path(digest).unlink(missing_ok=True)

    def _read(self, digest: str) -> _Entry:
        try:
            data = read_bounded(self._entry_path(digest), _MAX_BYTES)
            return msgspec.json.decode(data, type=_Entry)
        except (CryoError, msgspec.DecodeError, UnicodeDecodeError):
            return _Entry()  # absent or damaged: the image is read again

    def _path(self, manifest: Manifest) -> Path:
        return self._entry_path(manifest.digest)

    def _entry_path(self, digest: str) -> Path:
        return self._folder / f"{digest}{_SUFFIX}"


def identities(image: Path) -> dict[str, Identity]:
    """Return the identity of every file of an image."""
    with open_image_dir(image) as folder:
        return {name: folder.identity(name) for name in folder.names() if name != NAME}


def _is_there(copy: _Copy, digest: str) -> bool:
    """Whether this copy still exists: its first file is unchanged, or its manifest is the same.

    A reboot may change the device numbers of all files.
    """
    for name, known in copy.files.items():
        try:
            with open_image_dir(Path(copy.image)) as folder:
                return folder.identity(name) == known or _digest(folder) == digest
        except (CryoError, OSError):
            return False
    return False


def _digest(folder: ImageDir) -> str:
    with folder.opened(NAME) as fd, open(fd, "rb", closefd=False) as file:
        return manifests.decode(file.read(manifests.MAX_MANIFEST_BYTES), str(folder.path)).digest


class NoCache(VerifyCache):
    """Records nothing, for images that are only looked at."""

    def __init__(self) -> None:
        super().__init__(Path(os.devnull))

    def known(self, manifest: Manifest) -> Known:  # noqa: ARG002
        """Return that every file has to be read."""
        return Known()

    def remember(self, manifest: Manifest, image: Path, files: dict[str, Identity]) -> bool:  # noqa: ARG002
        """Return that nothing is missing."""
        return True
