"""The fingerprint of a container, kept in its folder from its creation until it is saved.

Settings and runsc may change meanwhile; the image belongs to those that the container runs with.
"""

from __future__ import annotations

from pathlib import Path

import msgspec

from shim.errors import CryoError
from shim.host import files
from shim.host.oserror import typed
from shim.image.named import Fingerprint

_NAME = "fingerprint.json"
_MAX_BYTES = 8 << 20


def write(folder: Path, fingerprint: Fingerprint) -> None:
    """Write it, without fsync, as a reboot ends the container as well."""
    try:
        (folder / _NAME).write_bytes(msgspec.json.encode(fingerprint))
    except OSError as error:
        raise typed(error, f"write {folder / _NAME}") from error


def read(folder: Path) -> Fingerprint | None:
    """Read it; None if the container has none, or it was damaged."""
    try:
        data = files.read_bounded(folder / _NAME, _MAX_BYTES)
        return msgspec.json.decode(data, type=Fingerprint)
    except (CryoError, msgspec.MsgspecError):
        return None
