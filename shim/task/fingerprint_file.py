"""The fingerprint of a container, kept in its folder from its creation until it is saved.

Settings and runsc may change meanwhile; the image belongs to those that the container runs with.
"""

from __future__ import annotations

from pathlib import Path

import msgspec

from shim.host.oserror import typed
from shim.image.named import PARTS, Fingerprint


def write(folder: Path, fingerprint: Fingerprint) -> None:
    """Write it, without fsync, as a reboot ends the container as well."""
    try:
        (folder / PARTS).write_bytes(msgspec.json.encode(fingerprint))
    except OSError as error:
        raise typed(error, f"write {folder / PARTS}") from error
