"""The policy of `[trust]`: which images are accepted, and what one from elsewhere may use.

An image is from elsewhere if its labels have a source: it was pulled or imported. Its manifest and
its specs are somebody else's, so without the caller's own bundle it gets nothing of the host.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from shim.config import Trust
from shim.errors import CryoError, PermissionDenied, ResourceExhausted
from shim.host.text import first_few
from shim.image import signature
from shim.image.directory import ImageDir
from shim.image.manifest import Manifest, Member
from shim.oci import document, host_requests

if TYPE_CHECKING:
    from shim.image.keys import PublicKey

_SHOWN = 64
_FOREIGN_REMEDY = (
    "restore it with your own --bundle, or accept all of this with --trust-spec; "
    "[trust] rootfs in config.toml lists folders of root filesystems that are accepted"
)


class Action(enum.StrEnum):
    """What is done with an image."""

    RESTORE = "restore"
    PULL = "pull"
    IMPORT = "import"


def requires_signature(trust: Trust, action: Action) -> bool:
    """Whether an image has to be signed by a configured key for this."""
    accepted = {
        Action.RESTORE: trust.restore,
        Action.PULL: trust.pull,
        Action.IMPORT: trust.import_,
    }
    return accepted[action] == "signed" or (accepted[action] == "auto" and bool(trust.keys))


def check_signed(
    trust: Trust,
    action: Action,
    manifest: Manifest,
    data: bytes,
    envelope: bytes | None,
    where: str,
) -> None:
    """Check that an image is signed as this host requires, given cryo.json and its signatures.

    Reads the configured keys, so it blocks.

    Raises:
        PermissionDenied: no configured key has signed it; the message names the keys.
        ImageCorrupt: its signatures are damaged, or of another image.
        NotFound, InvalidArgument: a configured key cannot be read.
    """
    if not requires_signature(trust, action):
        return
    keys = configured_keys(trust)
    if signature.signers(manifest, data, envelope, keys, where):
        return
    raise _unsigned(trust, action, envelope, where)


def check_offered(
    trust: Trust,
    action: Action,
    manifest: Manifest,
    data: bytes,
    envelope: bytes | None,
    where: str,
) -> None:
    """Check an image that is elsewhere before its files are fetched, as `check_signed` does.

    Raises:
        ResourceExhausted: it is larger than this host takes.
        CryoError: as `check_signed`.
    """
    if manifest.size_bytes > trust.max_image_bytes:
        message = (
            f"{where} has {manifest.size_bytes} bytes, and [trust] max_image_bytes in config.toml "
            f"is {trust.max_image_bytes}"
        )
        raise ResourceExhausted(message, remedy="raise max_image_bytes if you trust the image")
    check_signed(trust, action, manifest, data, envelope, where)


def check_folder(trust: Trust, action: Action, folder: ImageDir) -> None:
    """Check as `check_signed` does that the image in an open folder is signed.

    Raises:
        CryoError: as `check_signed`.
    """
    if not requires_signature(trust, action):
        return
    if not signature.image_signers(folder, configured_keys(trust)):
        raise _unsigned(trust, action, signature.read_side(folder), str(folder.path))


def configured_keys(trust: Trust) -> tuple[PublicKey, ...]:
    """Read the public keys of the configuration; none are loaded if it has none.

    Raises:
        CryoError: one cannot be read, or another user could replace it.
    """
    if not trust.keys:
        return ()
    from shim.image import keys  # noqa: PLC0415  # cryptography is loaded on use

    return keys.read_configured(trust.keys)


def _unsigned(trust: Trust, action: Action, envelope: bytes | None, where: str) -> PermissionDenied:
    what = f"[trust] {action} in config.toml requires a signature"
    if not trust.keys:
        message = f"{where} is refused: {what}, and keys lists no key"
        return PermissionDenied(message, remedy="list the public keys that you trust there")
    found = signature.read_envelope(envelope, where)
    ids = [one.key_id[:16] for one in found.signatures] if found is not None else []
    signed = f"it is signed by {first_few(ids)}" if ids else "it is not signed"
    message = f"{where} is refused: {what} by {first_few(trust.keys)}, and {signed}"
    remedy = "sign it: cryo checkpoints sign --key; or add the public key of its signer to keys"
    return PermissionDenied(message, remedy=remedy)


def requests(manifest: Manifest, rootfs: Sequence[str]) -> tuple[str, ...]:
    """List what a restore from the image alone would use of the host, with the task of each.

    A root filesystem in a folder of `rootfs` is not listed. Looks at paths, so it blocks.
    """
    return tuple(
        f"{one.task}: {text}"
        for one in (manifest.root, *manifest.members)
        for text in _of(one, rootfs)
    ) + _of_flags(manifest)


def check_foreign(manifest: Manifest, source: str, rootfs: Sequence[str], where: str) -> None:
    """Check that an image from elsewhere uses nothing of the host, if restored by itself.

    Raises:
        PermissionDenied: it does; the message lists all of it.
    """
    found = requests(manifest, rootfs)
    if not found:
        return
    message = (
        f"image {where} is from {source}, and its config.json may not use what it names of this "
        f"host: {first_few(found, _SHOWN)}"
    )
    raise PermissionDenied(message, remedy=_FOREIGN_REMEDY)


def _of(one: Member, rootfs: Sequence[str]) -> tuple[str, ...]:
    try:
        spec = document.parse(one.spec, Path(one.bundle), restoring=True)
    except CryoError as error:
        return (f"a spec that is not valid: {error.message}",)
    found = host_requests.of(spec)
    if not _is_below(spec.rootfs, rootfs):
        found = (f"root filesystem {spec.rootfs}", *found)
    return found


def _of_flags(manifest: Manifest) -> tuple[str, ...]:
    """Return what the flags of runsc, which are as they were at the save, would use."""
    overlay = manifest.runsc_flags.get("overlay2", "")
    return ("overlay2=none: its root filesystem is written to",) if overlay == "none" else ()


def _is_below(path: Path, folders: Sequence[str]) -> bool:
    """Whether a path lies in one of the folders, through no link that leads out of it."""
    try:
        real = path.resolve(strict=True)
        roots = [Path(folder).resolve(strict=True) for folder in folders]
    except (OSError, RuntimeError):
        return False
    return any(real.is_relative_to(root) and real != root for root in roots)
