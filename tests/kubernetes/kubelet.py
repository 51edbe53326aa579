"""A kubelet in the network of a test, with what all of them share."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from tests.containerd.daemon import Daemon
from tests.kubernetes.control_plane import command
from tests.kubernetes.network import ADDRESS
from tests.kubernetes.node import Node

NODE = "n1"
_PORT = 10250
_HEALTH_PORT = 10248
# What a kubelet would write into the host's /proc/sys.
_TUNABLES = {
    "kernel/keys/root_maxbytes": "25000000",
    "kernel/keys/root_maxkeys": "1000000",
    "kernel/panic": "10",
    "kernel/panic_on_oops": "1",
    "vm/overcommit_memory": "1",
    "vm/panic_on_oom": "0",
}


class KubeletDaemon(Daemon):
    """A kubelet of a node, with the root directory that the runtime's config.toml names.

    Without more settings and options it runs no pods: subclasses name their source. What it writes
    to fixed paths of the host, in /var and /proc/sys, stays in the place.
    """

    def __init__(self, node: Node, program: Path) -> None:
        super().__init__(
            "kubelet", node.network.place, programs={"kubelet": program}, cgroup=node.cgroup
        )
        self.network = node.network
        self._root = node.kubelet
        self._runtime = node.address

    def prepare(self) -> None:
        """Write the configuration."""
        self.write("kubelet.json", self.settings())
        for name in ("logs", "plugins"):
            (self.folder / "root" / name).mkdir()
        self._cover_host()
        for hierarchy in _hierarchies():
            (hierarchy / self.cgroup).mkdir(exist_ok=True)

    def _cover_host(self) -> None:
        """Put a layer over /var, and files over the tunables of the kernel."""
        layer = self.folder / "var"
        for name in ("upper", "work", "tunables"):
            (layer / name).mkdir(parents=True)
        layers = f"lowerdir=/var,upperdir={layer}/upper,workdir={layer}/work"
        self.place.do("mount", "-t", "overlay", "overlay", "-o", layers, "/var")
        for name, value in _TUNABLES.items():
            path = layer / "tunables" / name.replace("/", ".")
            path.write_text(f"{value}\n", "utf-8")
            self.place.do("mount", "--bind", str(path), f"/proc/sys/{name}")

    def write(self, name: str, content: Mapping[str, object]) -> None:
        """Write a file with a document."""
        path = self.folder / "root" / name
        path.touch(mode=0o600)
        path.write_text(json.dumps(content), "utf-8")

    def settings(self) -> dict[str, object]:
        """Return the document of its configuration."""
        root = self.folder / "root"
        return {
            "apiVersion": "kubelet.config.k8s.io/v1beta1",
            "kind": "KubeletConfiguration",
            "address": "0.0.0.0",  # noqa: S104  # of the test's network
            "port": _PORT,
            "healthzPort": _HEALTH_PORT,
            "authentication": {"anonymous": {"enabled": True}, "webhook": {"enabled": False}},
            "authorization": {"mode": "AlwaysAllow"},
            "failCgroupV1": False,
            "failSwapOn": False,
            "cgroupDriver": "cgroupfs",
            "cgroupRoot": f"/{self.cgroup}",
            "enforceNodeAllocatable": [],
            "containerRuntimeEndpoint": f"unix://{self._runtime}",
            "podLogsDir": str(root / "logs"),
            "volumePluginDir": str(root / "plugins"),
            "makeIPTablesUtilChains": False,
            "evictionHard": {"memory.available": "50Mi"},
            "shutdownGracePeriod": "0s",
            "syncFrequency": "10s",
            "nodeStatusUpdateFrequency": "10s",
        }

    def options(self) -> dict[str, str]:
        """Return the options of the command line."""
        root = self.folder / "root"
        return {
            "config": str(root / "kubelet.json"),
            "root-dir": str(self._root),
            "cert-dir": str(root / "certs"),
            "hostname-override": NODE,
            "node-ip": ADDRESS,
            "v": "2",
        }

    def argv(self) -> list[str]:
        """Return the command line."""
        return command(self.folder / "bin/kubelet", self.options())

    def answers(self) -> bool:
        """Return whether it serves."""
        return self.network.listens(_HEALTH_PORT)


def _hierarchies() -> list[Path]:
    """List the roots of the hierarchies of cgroup v1, or that of v2."""
    root = Path("/sys/fs/cgroup")
    return [one for one in (root, *root.iterdir()) if _is_hierarchy(one)]


def _is_hierarchy(path: Path) -> bool:
    return path.is_mount() and (path / "cgroup.procs").exists()
