"""Files that a container of a pod uses and that another pod of its template does not have.

A volume of the pod's own that is on the host is not in an image: an emptyDir is empty in the next
pod, and a config map or the like has its current files in a folder with another name
(`shim.oci.atomic_volumes`). A file that is open there fails the restore.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import PurePosixPath

from shim.oci.atomic_volumes import FOLDER, data_folders
from shim.oci.document import Spec, SpecMount
from shim.oci.kubelet import ATOMIC, EMPTY_DIR, PodFolder, VolumeUse, pod_folder
from shim.oci.volumes import sandbox_volumes

# What the sentry adds to the path of a file that has been removed.
_DELETED = " (deleted)"


class PodFiles:
    """The mounts of a container, and which of them are of volumes of its own pod on the host."""

    def __init__(self, spec: Spec, kubelet: str) -> None:
        """Read the pod's folder on the host; a container outside a pod has no such volumes."""
        self._mounts = sorted(spec.mounts, key=lambda one: len(one.destination), reverse=True)
        self._folder = pod_folder(kubelet, spec)
        self._empty_dirs = _names(self._folder)
        self._current = data_folders(spec, kubelet)

    @property
    def any(self) -> bool:
        """Whether the container mounts such a volume."""
        return any(self._is_empty_dir(one) or self._is_atomic(one) for one in self._mounts)

    def parts(self, root: Spec) -> list[str]:
        """List the names of volumes that are on the host because they are mounted with subPath.

        `root` is the spec of the sandbox's own container: its volumes are to be in an image.
        """
        names = {one.name for one in sandbox_volumes(root)}
        uses = (use for one in self._mounts if (use := self._use(one)) and self._is_empty_dir(one))
        return sorted({use.name for use in uses if use.name in names})

    def missing(self, paths: Iterable[str]) -> list[str]:
        """Return those of the paths in use that are missing in the next pod, with the reason."""
        reasons = ((path, self._reason(PurePosixPath(path))) for path in sorted(paths))
        return [f"{path} ({reason})" for path, reason in reasons if reason]

    def _reason(self, path: PurePosixPath) -> str:
        mount = next((one for one in self._mounts if path.is_relative_to(one.destination)), None)
        use = self._use(mount) if mount else None
        if mount is None or use is None or path == PurePosixPath(mount.destination):
            return ""
        if self._is_empty_dir(mount):
            if path.name.endswith(_DELETED) and path.parent == PurePosixPath(mount.destination):
                return ""  # an image has its contents, and a restore creates it again
            return f"in volume {use.name}, which is on the host"
        first = path.relative_to(mount.destination).parts[0]
        current = self._current.get(mount.destination, first)
        if self._is_atomic(mount) and FOLDER.fullmatch(first) and first != current:
            return f"of an earlier version of volume {use.name}"
        return ""

    def _use(self, mount: SpecMount) -> VolumeUse | None:
        return self._folder.use_of(mount.source) if self._folder else None

    def _is_empty_dir(self, mount: SpecMount) -> bool:
        """Whether a mount shows an emptyDir on the host; with subPath its kind is not known."""
        use = self._use(mount)
        if use is None or mount.type != "bind":
            return False
        return use.kind == EMPTY_DIR or (use.kind is None and use.name in self._empty_dirs)

    def _is_atomic(self, mount: SpecMount) -> bool:
        use = self._use(mount)
        return use is not None and use.kind in ATOMIC and not use.part


def _names(folder: PodFolder | None) -> frozenset[str]:
    return frozenset(path.name for path in folder.empty_dirs()) if folder else frozenset()
