"""What an image says that a restore would make of it, for those who look before they restore."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from shim.errors import CryoError
from shim.image import manifest as manifests
from shim.image.manifest import Manifest, Member
from shim.spec import document
from shim.spec import host_access as accesses
from shim.spec.host_access import HostAccess


def host_access(manifest: Manifest) -> tuple[HostAccess, ...]:
    """List what each container gets of the host in a restore that takes its spec from the image."""
    return tuple(_of(one) for one in (manifest.own, *manifest.members))


def described(manifest: Manifest) -> dict[str, Any]:
    """Give the manifest as plain values, and beside it `host_access`."""
    return {
        **manifests.to_plain(manifest),
        "host_access": msgspec.to_builtins(host_access(manifest)),
    }


def _of(one: Member) -> HostAccess:
    try:
        spec = document.parse(one.spec, Path(one.bundle), restoring=True)
    except CryoError:  # a restore from the image refuses it; a restore with a bundle need not
        return HostAccess(task=one.task, rootfs=one.rootfs)
    return accesses.of(one.task, spec)
