"""The mounts of a pod's container, of volumes that its sandbox keeps (`shim.oci.volumes`).

Such a mount has the type tmpfs: with `bind` runsc would make another file for the contents, and
the release of 2024 would not restore that. runsc knows a kept volume by the exact text of a mount's
source; a mount of the folder on the host is therefore spelled differently. runsc cannot mount a
part of a kept volume (subPath): a volume that is first used in part is seen on the host by all
containers of the pod.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum
from pathlib import PurePosixPath

from shim.errors import FailedPrecondition
from shim.oci import document, pod
from shim.oci.document import Spec
from shim.oci.kubelet import EMPTY_DIR, PodFolder
from shim.oci.volumes import SandboxVolume, as_tmpfs, sandbox_volumes


class View(StrEnum):
    """Where the containers of a pod see a volume: in the sandbox, or in its folder on the host."""

    SANDBOX = "sandbox"
    HOST = "host"


Decide = Callable[[str, View], View]
"""Decides where a volume, by its name, is seen: the first request wins. Returns the decision."""


def share(
    spec: Spec, root: Spec, folder: PodFolder, decide: Decide, saved: Spec | None = None
) -> Spec:
    """Return the spec of a container with its mounts of the volumes that its sandbox keeps.

    `root` is the spec of the sandbox's own container, `saved` that of an image which the
    container is restored from.

    Raises:
        FailedPrecondition: it mounts a part of a volume that others use in the sandbox.
    """
    volumes = sandbox_volumes(root)
    views = {one.name: _view(spec, one, folder, decide, saved) for one in volumes}
    inside = {one.source for one in volumes if views[one.name] is View.SANDBOX}
    mounts = as_tmpfs([dict(one) for one in spec.data.get("mounts") or []], inside)
    outside = {one.source for one in volumes} - inside
    for mount in mounts:
        if mount.get("source") in outside:
            mount["source"] = respelled(mount["source"])
    if mounts == (spec.data.get("mounts") or []):
        return spec
    return document.parse({**spec.data, "mounts": mounts}, spec.bundle, restoring=True)


def _view(
    spec: Spec, one: SandboxVolume, folder: PodFolder, decide: Decide, saved: Spec | None
) -> View:
    uses = [use for mount in spec.mounts if (use := folder.use_of(mount.source))]
    own = [use for use in uses if use.name == one.name and use.kind in (None, EMPTY_DIR)]
    if one.is_shm or not own:
        return View.SANDBOX
    part = any(use.part for use in own)
    on_host = part or (saved is not None and _was_on_host(saved, one.name))
    found = decide(one.name, View.HOST if on_host else View.SANDBOX)
    if part and found is View.SANDBOX:
        message = (
            f"container {pod.name_of(spec)} mounts a part (subPath) of volume {one.name}, which "
            "other containers of its pod use inside the sandbox"
        )
        remedy = f"annotate the pod with io.cryo.host-volumes: {one.name}"
        raise FailedPrecondition(message, remedy=remedy)
    return found


def respelled(source: str) -> str:
    """Return another spelling of a volume's path, under which runsc has no hint for it."""
    path = PurePosixPath(source)
    return f"{path.parent}/./{path.name}"


def _was_on_host(saved: Spec, name: str) -> bool:
    """Whether the saved container saw a volume in its folder on the host."""
    sources = (mount.source for mount in saved.mounts)
    return any(
        PurePosixPath(source).name == name and source == respelled(source) for source in sources
    )
