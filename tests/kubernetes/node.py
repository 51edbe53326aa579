"""A node for a kubelet: a containerd that runs pods in our shim, each with an address."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
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


@dataclass(frozen=True)
class Extras:
    """What a node has in addition; its containers may begin with a spec of their own."""

    env: Mapping[str, str] = field(default_factory=dict)
    flags: Mapping[str, str] = field(default_factory=dict)
    settings: toml.Tables = field(default_factory=dict)
    base_spec: Path | None = None


_NO_EXTRAS = Extras()


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
        extras: Extras = _NO_EXTRAS,
    ) -> None:
        """Take the root directory of the kubelet, and the directory of CNI's plugins."""
        runtimes = {RUNTIME_CLASS: RUNTIME}
        cri = Cri(sandbox_image=PAUSE, runtimes=runtimes, base_spec=extras.base_spec)
        settings: toml.Tables = {"pods": {"restore": True, "kubelet": str(kubelet)}}
        super().__init__(
            build,
            network.place,
            runsc,
            flags=extras.flags,
            settings=toml.merge(settings, extras.settings),
            cri=cri,
            config=_DEFAULT,
            env=extras.env,
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
