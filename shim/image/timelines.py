"""Where the time of an image's checkpoint went, in a file in the image's folder.

The manifest has what was known at the seal. The file has all of it, and the digest of its manifest.
The seal does not cover it, and verification ignores it.
"""

from __future__ import annotations

import os
from pathlib import Path

import msgspec

from shim.errors import CryoError
from shim.host import files
from shim.host.oserror import typed
from shim.image.directory import open_image_dir
from shim.image.manifest import Manifest
from shim.image.side_files import TIMELINE
from shim.image.verify import decode_manifest
from shim.model import Timeline, Value

_MAX_BYTES = 256 << 10
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


class _Kept(Value):
    digest: str
    timeline: Timeline


def write(image: Path, manifest: Manifest, timeline: Timeline) -> None:
    """Add the timeline to a new image; it is not synced, as the image is whole without it.

    Raises:
        CryoError: it cannot be written.
    """
    data = msgspec.json.encode(_Kept(digest=manifest.digest, timeline=timeline))
    path = image / TIMELINE
    try:
        fd = os.open(path, _NEW, 0o600)
        with open(fd, "wb") as file:  # noqa: PTH123 - a descriptor, not a path
            file.write(data)
    except OSError as error:
        raise typed(error, f"write {path}") from error


def read(image: Path) -> Timeline:
    """Return the timeline of an image's checkpoint; that of its manifest if there is no other.

    Raises:
        NotFound, ImageCorrupt, PermissionDenied: the image cannot be read.
    """
    with open_image_dir(image) as folder:
        manifest, _ = decode_manifest(folder)
    found = _read(image, manifest) or manifest.timeline
    return msgspec.structs.replace(found, image_path=str(image))


def _read(image: Path, manifest: Manifest) -> Timeline | None:
    """Return the content of the file; None if it is missing, damaged, or of another image."""
    try:
        data = files.read_bounded(image / TIMELINE, _MAX_BYTES)
        kept = msgspec.json.decode(data, type=_Kept)
    except (CryoError, OSError, ValueError, RecursionError):
        return None
    return kept.timeline if kept.digest == manifest.digest else None
