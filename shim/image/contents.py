"""What a restore of an image would do, for a look at the image before a restore."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from shim.errors import CryoError
from shim.image import manifest as manifests
from shim.image.manifest import Manifest, Member
from shim.oci import document
from shim.oci import host_access as accesses
from shim.oci.host_access import HostAccess


def host_access(manifest: Manifest) -> tuple[HostAccess, ...]:
    """List what each container can access on the host, if restored with the specs of the image."""
    return tuple(_of(one) for one in (manifest.root, *manifest.members))


def described(manifest: Manifest) -> dict[str, Any]:
    """Return the manifest as plain values, with `host_access` added."""
    return {
        **manifests.to_plain(manifest),
        "host_access": msgspec.to_builtins(host_access(manifest)),
    }


def _of(one: Member) -> HostAccess:
    try:
        spec = document.parse(one.spec, Path(one.bundle), restoring=True)
    except CryoError:  # such an image can only be restored with a bundle
        return HostAccess(task=one.task, rootfs=one.rootfs)
    return accesses.of(one.task, spec)
