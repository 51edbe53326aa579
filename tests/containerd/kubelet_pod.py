"""A pod as the kubelet prepares it: its folder on the host, and the specs of its containers.

They are created by containerd's Task service, since the CRI plugin has no restore.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from hack.examples import task_api
from tests.containerd.api import Api
from tests.containerd.cryo import Cryo

_CRI = "io.kubernetes.cri"
# The command of a container that does nothing.
IDLE = ("sleep", "100000")


class KubeletPod:
    """A pod of one uid with its volumes; `remove` deletes its containers and folders."""

    def __init__(self, cryo: Cryo, api: Api, rootfs: Path, kubelet: Path) -> None:
        self._cryo = cryo
        self._api = api
        self._rootfs = rootfs
        self.id = cryo.fresh("pod")
        self.folder = kubelet / "pods" / f"uid-{self.id}"
        self._shm = kubelet / f"shm-{self.id}"
        self._shm.mkdir(mode=0o1777)
        self._names: list[str] = []

    def empty_dir(self, name: str, *, size: str = "") -> Path:
        """Make an emptyDir volume; with a size it is one in memory."""
        path = self.volume("kubernetes.io~empty-dir", name)
        path.chmod(0o777)
        if size:
            self._cryo.place.do("mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(path))
        return path

    def volume(self, kind: str, name: str) -> Path:
        """Make a volume of a kind."""
        path = self.folder / "volumes" / kind / name
        path.mkdir(parents=True)
        return path

    def config_map(self, name: str, time: str, files: Mapping[str, str]) -> Path:
        """Make a volume of a config map, or update it, as the kubelet's atomic writer does."""
        path = self.folder / "volumes" / "kubernetes.io~configmap" / name
        folder, link = path / f"..{time}", path / "..data"
        folder.mkdir(parents=True)
        old = path / link.readlink() if link.is_symlink() else None
        for key, text in files.items():
            (folder / key).write_text(text)
        temporary = path / "..data_tmp"
        temporary.symlink_to(folder.name)
        temporary.rename(link)
        if old is not None:
            shutil.rmtree(old)
        for key in files:
            if not (path / key).is_symlink():
                (path / key).symlink_to(f"..data/{key}")
        return path

    def run(
        self,
        name: str,
        command: Sequence[str],
        mounts: Mapping[str, Path] | None = None,
        *,
        image: str = "",
        annotations: Mapping[str, str] | None = None,
        host_network: bool = False,
    ) -> str:
        """Create and start a container, or restore it from an image; return its id."""
        made = f"{self.id}-{name}" if name else self.id
        spec = self._spec(name, command, mounts or {}, annotations or {})
        if host_network:
            spaces = spec["linux"]["namespaces"]
            spec["linux"]["namespaces"] = [one for one in spaces if one["type"] != "network"]
        for mount in spec["mounts"]:  # the root filesystem is read-only
            (self._rootfs / mount["destination"][1:]).mkdir(parents=True, exist_ok=True)
        self._api.container(made, spec)
        self._names.append(made)
        self._api.create(made, self._rootfs, image)
        self._api.start(made)
        return made

    def sandbox(self, **how: Any) -> str:
        """Start the pod's sandbox."""
        return self.run("", IDLE, **how)

    def _spec(
        self,
        name: str,
        command: Sequence[str],
        mounts: Mapping[str, Path],
        annotations: Mapping[str, str],
    ) -> dict[str, Any]:
        spec = task_api.spec(command)
        spec["root"]["readonly"] = False
        spec["mounts"] += [
            {"destination": at, "type": "bind", "source": str(path), "options": ["rbind", "rw"]}
            for at, path in {"/dev/shm": self._shm, **mounts}.items()
        ]
        spec["annotations"] = {
            f"{_CRI}.container-type": "container" if name else "sandbox",
            f"{_CRI}.sandbox-id": self.id,
            f"{_CRI}.sandbox-uid": self.folder.name,
            **({f"{_CRI}.container-name": name} if name else {}),
            **annotations,
        }
        return spec

    def end(self, made: str) -> None:
        """Delete a container and its task."""
        self._cryo.remove(made)
        self._names.remove(made)

    def remove(self) -> None:
        """Delete the containers, the sandbox last, and the volumes, as the kubelet does."""
        if not self._shm.exists():
            return
        for made in reversed(list(self._names)):
            self.end(made)
        for path in self.folder.glob("volumes/*/*"):
            self._cryo.place.remote.run(["umount", str(path)])
        if self.folder.exists():
            shutil.rmtree(self.folder)
        self._shm.rmdir()


Pods = Callable[[], KubeletPod]
