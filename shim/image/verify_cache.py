"""What this host has already read whole: files that need no second reading while untouched.

It guards against accidents, not against root: who may write the images may write this as well.
"""

from __future__ import annotations

import contextlib
import os
import random
from pathlib import Path

import msgspec

from shim import points
from shim.errors import CryoError
from shim.host.files import private_dir, read_bounded, write_atomic
from shim.image.directory import Identity, ImageDir, identity, open_image_dir
from shim.image.manifest import NAME, Manifest
from shim.model import Value

_MAX_BYTES = 4 << 20
_MAX_COPIES = 8
_SUFFIX = ".json"
# How many entries are looked at with each that is written, and at the start.
_LOOKED_AT = 16
_MAX_PRUNED = 10_000


class _Copy(Value):
    """One folder that an image was read in: each file's identity by name."""

    image: str
    files: dict[str, Identity]


class _Entry(Value):
    """The copies of one image that were read here, newest last."""

    copies: tuple[_Copy, ...] = ()


class VerifyCache:
    """A folder with one small file per manifest digest; damaged or lost, it only costs time."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def knows(self, manifest: Manifest, name: str, found: Identity) -> bool:
        """Whether this very file was sealed or read whole on this host, and not touched since."""
        return any(copy.files.get(name) == found for copy in self._load(manifest).copies)

    def remember(self, manifest: Manifest, image: Path, files: dict[str, Identity]) -> bool:
        """Record that these files have the sealed content; tell whether it could be written.

        Images that are gone leave entries here: a few are looked at each time.
        """
        found = _Copy(image=str(image), files=files)
        rest = [copy for copy in self._load(manifest).copies if copy.image != found.image]
        entry = _Entry(copies=(*rest, found)[-_MAX_COPIES:])
        try:
            with points.around("image.ledger"):
                private_dir(self._folder)
                write_atomic(self._path(manifest), msgspec.json.encode(entry))
        except CryoError:
            return False  # no reason to fail what is whole: it is only read again
        self.prune(_LOOKED_AT)
        return True

    def remember_image(self, image: Path, manifest: Manifest) -> bool:
        """Record a folder that was sealed a moment ago; an unsealed one has nothing to record."""
        return not manifest.sealed or self.remember(manifest, image, identities(image))

    def prune(self, most: int = _MAX_PRUNED) -> None:
        """Drop the entries of images that are gone or changed; of many, look at `most` of them."""
        try:
            with os.scandir(self._folder) as entries:
                names = [entry.name for entry in entries if entry.name.endswith(_SUFFIX)]
        except OSError:
            return  # none was ever written
        for name in random.sample(names, min(most, len(names))):
            digest = name.removesuffix(_SUFFIX)
            if not any(map(_is_there, self._read(digest).copies)):
                with contextlib.suppress(OSError):
                    self.forget(digest)

    def forget(self, digest: str) -> None:
        """Drop what is known of an image."""
        self._entry_path(digest).unlink(missing_ok=True)

    def _load(self, manifest: Manifest) -> _Entry:
        return self._read(manifest.digest)

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
    """Tell the identity of every file of an image."""
    with open_image_dir(image) as folder:
        return {name: _identity(folder, name) for name in folder.names() if name != NAME}


def _is_there(copy: _Copy) -> bool:
    """Whether a folder that was read still has the first of its files, untouched."""
    for name, known in copy.files.items():
        try:
            with open_image_dir(Path(copy.image)) as folder:
                return _identity(folder, name) == known
        except (CryoError, OSError):
            return False
    return False


def _identity(folder: ImageDir, name: str) -> Identity:
    with folder.opened(name) as fd:
        return identity(fd)
