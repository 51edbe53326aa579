"""What can be done with an image alone, on any machine: no runsc, and no process that serves.

All of it blocks.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from shim.errors import PermissionDenied
from shim.host.text import first_few
from shim.image import contents, labels, signature
from shim.image.directory import open_image_dir
from shim.image.manifest import Manifest
from shim.image.verify import HeldImage, decode_manifest
from shim.image.verify_cache import NoCache
from shim.model import Report, Verify

if TYPE_CHECKING:
    from collections.abc import Sequence

    from shim.image.keys import PublicKey

SIGNED_BY = "signed_by"
HOST_CHECKED = "host_checked"


def inspect(image: Path) -> dict[str, Any]:
    """Return the manifest of an image as plain values, and where the image is from.

    Raises:
        NotFound, ImageCorrupt, PermissionDenied: it cannot be read.
    """
    with open_image_dir(image) as folder:
        manifest, _ = decode_manifest(folder)
    return {**contents.described(manifest), "source": labels.read(image).source}


def verify(
    image: Path,
    mode: Verify,
    report: Report,
    *,
    required: Sequence[PublicKey] = (),
    untrusted_folder: bool = False,
) -> dict[str, Any]:
    """Check a whole image, and that one of the required keys has signed it; return the manifest.

    Raises:
        CryoError: it is not intact, not signed by any of them, or cannot be read.
    """
    held = HeldImage(image, strict=not untrusted_folder)
    try:
        manifest = held.verify(mode, NoCache(), report)
        return verified(held, manifest, required=required)
    finally:
        held.close()


def verified(
    held: HeldImage,
    manifest: Manifest,
    *,
    keys: Sequence[PublicKey] = (),
    required: Sequence[PublicKey] = (),
    host_checked: bool = False,
) -> dict[str, Any]:
    """Return what a verification found of an image whose files are intact.

    `keys` and `required` are those whose signatures are looked for, and one of `required` must have
    signed the image, if there is any.

    Raises:
        ImageCorrupt: its signatures are damaged, or of another image.
        PermissionDenied: none of the required keys has signed it.
    """
    found = signature.image_signers(held.folder, (*required, *keys))
    signers = {key.id: key for key in reversed(found)}
    if required and not any(key.id in signers for key in required):
        message = f"image {held.image} is not signed by {first_few([str(key) for key in required])}"
        raise PermissionDenied(message, remedy="use an image that the owner of the key has signed")
    return {
        **contents.described(manifest),
        "source": labels.read(held.image).source,
        SIGNED_BY: [{"key": key.name, "id": key.id} for key in signers.values()],
        HOST_CHECKED: host_checked,
    }
