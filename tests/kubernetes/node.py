"""A node for a kubelet: a containerd that runs pods in our shim, each with an address."""

from __future__ import annotations

import json
from pathlib import Path

from shim.simgpu import toml
from tests.containerd.builds import ContainerdBuild
from tests.containerd.config import Cri
from tests.containerd.cryo import RUNTIME, Cryo
from tests.containerd.image import PAUSE
from tests.containerd.named import Named
from tests.kubernetes.network import BRIDGE, SUBNET, Network
from tests.kubernetes.template import RUNTIME_CLASS

_PLUGINS = ("bridge", "host-local", "loopback")
# Pods of a kubelet without an API server have no RuntimeClass.
_DEFAULT = f"""
[plugins."io.containerd.cri.v1.runtime".containerd]
  default_runtime_name = "{RUNTIME_CLASS}"
"""


class Node(Cryo):
    """A containerd that may restore pods; their addresses are in the network of a test."""

    def __init__(
        self,
        build: ContainerdBuild,
        network: Network,
        runsc: Path,
        *,
        kubelet: Path,
        plugins: Path,
    ) -> None:
        """Take the root directory of the kubelet, and the directory of CNI's plugins."""
        cri = Cri(sandbox_image=PAUSE, runtimes={RUNTIME_CLASS: RUNTIME})
        settings: toml.Tables = {"pods": {"restore": True, "kubelet": str(kubelet)}}
        super().__init__(
            build, network.place, runsc, flags={}, settings=settings, cri=cri, config=_DEFAULT
        )
        self.network = network
        self.kubelet = kubelet
        self._plugins = plugins

    def prepare(self) -> None:
        """Install CNI's plugins, and write their configuration."""
        super().prepare()
        for name in ("bin", "conf"):
            (self.folder / "cni" / name).mkdir(parents=True)
        for name in _PLUGINS:
            (self.folder / "cni/bin" / name).symlink_to(self._plugins / name)
        path = self.folder / "cni/conf/10-pods.conflist"
        path.write_text(json.dumps(self._pods()), "utf-8")

    def _pods(self) -> dict[str, object]:
        addresses = {
            "type": "host-local",
            "dataDir": str(self.folder / "cni/addresses"),
            "ranges": [[{"subnet": SUBNET}]],
        }
        bridge = {"type": "bridge", "bridge": BRIDGE, "isGateway": True, "ipam": addresses}
        return {"cniVersion": "1.0.0", "name": "pods", "plugins": [bridge]}

    @property
    def images(self) -> Path:
        """The directory of the images that were made here."""
        return self.folder / "images"

    def named(self, name: str, namespace: str = "default") -> Named:
        """Return the images of a name of pods."""
        return Named(self.images / self.namespace / namespace / name)
