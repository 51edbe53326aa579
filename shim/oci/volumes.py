"""Volumes of a pod that are kept inside its sandbox, so that an image contains them.

A bind mount of a host folder is not in an image: in the next pod the folder is empty, and a file
that was open in it fails the restore. runsc keeps a volume inside instead if the spec of the
sandbox's own container has hints for it (annotations `dev.gvisor.spec.mount.NAME.*`, see gVisor
runsc/boot/mount_hints.go): a tmpfs that all containers of the pod share, and that outlives them.
This is done for emptyDir volumes and for /dev/shm; `shim.oci.member_volumes` adapts the others.

Each such volume is also mounted in the sandbox's own container, which does nothing with it: runsc
stores a volume under the name of the container that mounts it first, and that must be one that
the image contains; an init container has exited by then.

With the type `bind` of that mount the contents are in a file of runsc in the volume's folder on the
host, where the kubelet sees their size; with `tmpfs`, for memory volumes, in sandbox memory.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from shim.host import mountinfo
from shim.model import Value
from shim.oci import document
from shim.oci.document import Spec
from shim.oci.kubelet import VOLUME_NAME, PodFolder

HINT = "dev.gvisor.spec.mount."
MOUNTS = "/dev/cryo-volumes"
SHM = "/dev/shm"  # noqa: S108 - the container's
# The name of the hint for /dev/shm; a volume cannot have it.
_SHM_NAME = "cryo_dev_shm"
_BIND = frozenset({"bind", "rbind"})


class SandboxVolume(Value):
    """A volume that is kept in the sandbox; `options` are those of its tmpfs."""

    name: str
    source: str
    memory: bool
    options: str

    @property
    def is_shm(self) -> bool:
        """Whether it is /dev/shm, which is no volume of the kubelet."""
        return self.name == _SHM_NAME

    @property
    def hint(self) -> dict[str, str]:
        """Return the annotations by which runsc keeps it."""
        fields = {"source": self.source, "type": "tmpfs", "share": "pod", "options": self.options}
        return {f"{HINT}{self.name}.{field}": text for field, text in fields.items()}


def sandbox_volumes(root: Spec) -> tuple[SandboxVolume, ...]:
    """Return the volumes that a sandbox keeps, from the spec of its own container."""
    notes = root.annotations
    memory = {mount.source for mount in root.mounts if mount.type == "tmpfs"}
    ends = (
        (key.removeprefix(HINT).rpartition("."), notes[key])
        for key in notes
        if key.startswith(HINT)
    )
    sources = {name: text for (name, _, field), text in ends if field == "source"}
    return tuple(
        SandboxVolume(
            name=name,
            source=source,
            memory=source in memory,
            options=notes.get(f"{HINT}{name}.options", "rw"),
        )
        for name, source in sources.items()
        if name == _SHM_NAME or VOLUME_NAME.fullmatch(name)
    )


def add_hints(
    spec: Spec, folder: PodFolder, on_host: frozenset[str], saved: Spec | None = None
) -> Spec:
    """Return the spec of a sandbox's own container with hints for the volumes of its pod.

    Those named in `on_host` stay there. With `saved`, of the image that the sandbox is restored
    from, the choice is as it was at the save.
    """
    volumes = [*_empty_dirs(folder), *_shared_memory(spec)]
    if saved is None:
        volumes = [one for one in volumes if one.name not in on_host]
    else:
        volumes = _as_saved(volumes, saved)
    mounts = [dict(one) for one in spec.data.get("mounts") or []]
    mounts = as_tmpfs(mounts, {one.source for one in volumes if one.is_shm})
    mounts += [_in_root(one) for one in volumes if not one.is_shm]
    notes = dict(spec.annotations)
    for one in volumes:
        notes |= one.hint
    if not volumes:
        return spec
    data = {**spec.data, "mounts": mounts, "annotations": notes}
    return document.parse(data, spec.bundle, restoring=True)


def _as_saved(volumes: list[SandboxVolume], saved: Spec) -> list[SandboxVolume]:
    before = {one.name: one for one in sandbox_volumes(saved)}
    return [
        msgspec.structs.replace(was, source=one.source)
        for one in volumes
        if (was := before.get(one.name))
    ]


def _empty_dirs(folder: PodFolder) -> Iterator[SandboxVolume]:
    for path in folder.empty_dirs():
        kind = mountinfo.filesystem(path)
        # Not huge pages, which gVisor does not have.
        if kind in (None, "tmpfs"):
            yield _of_folder(path.name, path, memory=kind == "tmpfs")


def _shared_memory(spec: Spec) -> list[SandboxVolume]:
    """Return /dev/shm, unless it is the host's (hostIPC)."""
    mounts = (one for one in spec.mounts if one.destination == SHM and one.type == "bind")
    return [
        _of_folder(_SHM_NAME, Path(mount.source), memory=True)
        for mount in mounts
        if mount.source != SHM
    ][:1]


def _of_folder(name: str, path: Path, *, memory: bool) -> SandboxVolume:
    """Describe a volume with the owner, mode and, if it is in memory, size of the host's folder."""
    found = path.stat()
    options = f"rw,mode={found.st_mode & 0o7777:04o},uid={found.st_uid},gid={found.st_gid}"
    if memory:
        total = os.statvfs(path)
        options += f",size={total.f_blocks * total.f_frsize}"
    return SandboxVolume(name=name, source=str(path), memory=memory, options=options)


def _in_root(one: SandboxVolume) -> dict[str, Any]:
    destination, options = f"{MOUNTS}/{one.name}", ["rbind", "rw"]
    mount = {"destination": destination, "source": one.source, "type": "bind", "options": options}
    (found,) = as_tmpfs([mount], {one.source} if one.memory else set())
    return found


def as_tmpfs(mounts: list[dict[str, Any]], sources: set[str]) -> list[dict[str, Any]]:
    """Return mounts in which those of these sources have the type tmpfs.

    A second mount at the same destination, as containerd 1.6 has for /dev/shm, is left out.
    """
    places = {one.get("destination") for one in mounts if one.get("source") in sources}
    return [
        _tmpfs(one) if one.get("source") in sources else one
        for one in mounts
        if one.get("source") in sources or one.get("destination") not in places
    ]


def _tmpfs(mount: dict[str, Any]) -> dict[str, Any]:
    options = [option for option in mount.get("options") or [] if option not in _BIND]
    return {**mount, "type": "tmpfs", "options": options}
