"""What this host has already read whole: files that need no second reading while untouched.

It guards against accidents, not against root: who may write the images may write this as well.
"""

from __future__ import annotations

from pathlib import Path

import msgspec

from shim import points
from shim.checkpoint.folder import Folder, Identity, identity, open_folder
from shim.checkpoint.manifest import NAME, Manifest
from shim.errors import CryoError
from shim.host import files
from shim.model import Value

_MAX_BYTES = 4 << 20
_MAX_COPIES = 8


class _Entry(Value):
    """The copies of one image that were read here: each file's identity by name, newest last."""

    copies: tuple[dict[str, Identity], ...] = ()


class Ledger:
    """A folder with one small file per manifest digest; damaged or lost, it only costs time."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def knows(self, manifest: Manifest, name: str, found: Identity) -> bool:
        """Whether this very file was sealed or read whole on this host, and not touched since."""
        return any(copy.get(name) == found for copy in self._load(manifest).copies)

    def remember(self, manifest: Manifest, identities: dict[str, Identity]) -> bool:
        """Record that these files have the sealed content; tell whether it could be written."""
        rest = [copy for copy in self._load(manifest).copies if copy != identities]
        entry = _Entry(copies=(*rest, identities)[-_MAX_COPIES:])
        try:
            with points.around("image.ledger"):
                files.private_dir(self._folder)
                files.write_atomic(self._path(manifest), msgspec.json.encode(entry))
        except CryoError:
            return False  # no reason to fail what is whole: it is only read again
        return True

    def remember_image(self, image: Path, manifest: Manifest) -> bool:
        """Record a folder that was sealed a moment ago; an unsealed one has nothing to record."""
        return not manifest.sealed or self.remember(manifest, identities(image))

    def forget(self, digest: str) -> None:
        """Drop what is known of an image."""
        self._entry_path(digest).unlink(missing_ok=True)

    def _load(self, manifest: Manifest) -> _Entry:
        try:
            data = files.read_bounded(self._path(manifest), _MAX_BYTES)
            return msgspec.json.decode(data, type=_Entry)
        except (CryoError, msgspec.DecodeError, UnicodeDecodeError):
            return _Entry()  # absent or damaged: the image is read again

    def _path(self, manifest: Manifest) -> Path:
        return self._entry_path(manifest.digest)

    def _entry_path(self, digest: str) -> Path:
        return self._folder / f"{digest}.json"


def identities(image: Path) -> dict[str, Identity]:
    """Tell the identity of every file of an image."""
    with open_folder(image) as folder:
        return {name: _identity(folder, name) for name in folder.names() if name != NAME}


def _identity(folder: Folder, name: str) -> Identity:
    with folder.opened(name) as fd:
        return identity(fd)
