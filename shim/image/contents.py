"""What a restore of an image would do, for a look at the image before a restore."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from shim.errors import CryoError
from shim.host.text import first_few
from shim.image import manifest as manifests
from shim.image.manifest import Manifest, Member
from shim.model import Value
from shim.oci import document, secret_variables
from shim.oci import host_access as accesses
from shim.oci.host_access import HostAccess


class Secrets(Value):
    """The environment variables of a container that look like secrets, by name."""

    task: str
    variables: tuple[str, ...]


def secrets(manifest: Manifest) -> tuple[Secrets, ...]:
    """List the containers that have such variables."""
    found = (
        Secrets(task=one.task, variables=secret_variables.names_in(one.spec))
        for one in (manifest.root, *manifest.members)
    )
    return tuple(one for one in found if one.variables)


def warning_of_secrets(manifest: Manifest) -> str | None:
    """Return what to say when the image leaves this host without encryption; None if nothing."""
    found = [f"{first_few(one.variables)} of {one.task}" for one in secrets(manifest)]
    if not found:
        return None
    return f"it is not encrypted, and has variables that look like secrets: {first_few(found)}"


def host_access(manifest: Manifest) -> tuple[HostAccess, ...]:
    """List what each container can access on the host, if restored with the specs of the image."""
    return tuple(_of(one) for one in (manifest.root, *manifest.members))


def described(manifest: Manifest) -> dict[str, Any]:
    """Return the manifest as plain values, with `host_access` and `secrets` added.

    The values of environment variables that look like secrets are masked.
    """
    plain = manifests.to_plain(manifest)
    for one in (plain, *plain["members"]):
        one["spec"] = secret_variables.masked(one["spec"])
    return {
        **plain,
        "host_access": msgspec.to_builtins(host_access(manifest)),
        "secrets": msgspec.to_builtins(secrets(manifest)),
    }


def _of(one: Member) -> HostAccess:
    try:
        spec = document.parse(one.spec, Path(one.bundle), restoring=True)
    except CryoError:  # such an image can only be restored with a bundle
        return HostAccess(task=one.task, rootfs=one.rootfs)
    return accesses.of(one.task, spec)
