"""The kubelet's folders of a pod on the host, and which volume a mount is of.

Source: pkg/kubelet/kubelet_getters.go and pkg/volume/util/subpath of Kubernetes.
"""

from __future__ import annotations

import re
from pathlib import Path, PurePosixPath

from shim.model import Value
from shim.oci.document import Spec
from shim.oci.pod import SANDBOX_UID

EMPTY_DIR = "kubernetes.io~empty-dir"
# Volumes whose files the kubelet replaces as a whole, by a new folder and the link `..data`.
ATOMIC = frozenset(
    f"kubernetes.io~{kind}" for kind in ("configmap", "secret", "projected", "downward-api")
)
VOLUME_NAME = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
_UID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,252}")
_VOLUMES, _SUBPATHS = "volumes", "volume-subpaths"


class VolumeUse(Value):
    """The volume that a mount is of; `part` is whether the mount is of a part of it (subPath).

    The kind is None for a mount with subPath, which does not show it.
    """

    name: str
    kind: str | None = None
    part: bool = False


class PodFolder:
    """The kubelet's folder of one pod."""

    def __init__(self, kubelet: str, uid: str) -> None:
        self._path = Path(kubelet) / "pods" / uid

    def empty_dirs(self) -> list[Path]:
        """List the emptyDir volumes of the pod; they exist before its sandbox is created."""
        try:
            found = sorted((self._path / _VOLUMES / EMPTY_DIR).iterdir())
        except (FileNotFoundError, NotADirectoryError):
            return []
        named = (path for path in found if VOLUME_NAME.fullmatch(path.name))
        return [path for path in named if path.is_dir() and not path.is_symlink()]

    def use_of(self, source: str) -> VolumeUse | None:
        """Return which volume of the pod a mount's source belongs to, if to any."""
        path = PurePosixPath(source)
        if ".." in path.parts or not path.is_relative_to(self._path):
            return None
        match path.relative_to(self._path).parts:
            case (folder, kind, name, *rest) if folder == _VOLUMES:
                return VolumeUse(name=name, kind=kind, part=bool(rest))
            case (folder, name, *_) if folder == _SUBPATHS:
                return VolumeUse(name=name, part=True)
        return None


def pod_folder(kubelet: str, spec: Spec) -> PodFolder | None:
    """Return the kubelet's folder of the pod that a container belongs to; None outside a pod."""
    uid = spec.annotations.get(SANDBOX_UID, "")
    return PodFolder(kubelet, uid) if _UID.fullmatch(uid) else None
