"""A kubelet that is registered at an API server, in the network of a test."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from tests.containerd.daemon import Daemon
from tests.kubernetes.control_plane import ControlPlane, command
from tests.kubernetes.network import ADDRESS, Network

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


class Kubelet(Daemon):
    """A kubelet with the root directory that the runtime's config.toml names.

    What it writes to fixed paths of the host, in /var and /proc/sys, stays in the place.
    """

    def __init__(
        self,
        network: Network,
        program: Path,
        plane: ControlPlane,
        *,
        root: Path,
        runtime: Path,
        cgroup: str,
    ) -> None:
        """Take the root directory of the kubelet, and the socket of containerd."""
        super().__init__("kubelet", network.place, programs={"kubelet": program}, cgroup=cgroup)
        self._network = network
        self._plane = plane
        self._root = root
        self._runtime = runtime

    def prepare(self) -> None:
        """Write the configuration."""
        self._write("kubeconfig.json", self._plane.kubeconfig())
        self._write("kubelet.json", self._settings())
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

    def _write(self, name: str, content: Mapping[str, object]) -> None:
        path = self.folder / "root" / name
        path.touch(mode=0o600)
        path.write_text(json.dumps(content), "utf-8")

    def _settings(self) -> dict[str, object]:
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

    def argv(self) -> list[str]:
        """Return the command line."""
        root = self.folder / "root"
        options = {
            "config": str(root / "kubelet.json"),
            "kubeconfig": str(root / "kubeconfig.json"),
            "root-dir": str(self._root),
            "cert-dir": str(root / "certs"),
            "hostname-override": NODE,
            "node-ip": ADDRESS,
            "v": "2",
        }
        return command(self.folder / "bin/kubelet", options)

    def answers(self) -> bool:
        """Return whether it serves, and its node is registered and ready."""
        if not self._network.listens(_HEALTH_PORT):
            return False
        node = self._plane.objects.read("Node", NODE)
        return node is not None and _is_ready(node)


def _hierarchies() -> list[Path]:
    """List the roots of the hierarchies of cgroup v1, or that of v2."""
    root = Path("/sys/fs/cgroup")
    return [one for one in (root, *root.iterdir()) if _is_hierarchy(one)]


def _is_hierarchy(path: Path) -> bool:
    return path.is_mount() and (path / "cgroup.procs").exists()


def _is_ready(node: dict[str, object]) -> bool:
    status = node["status"]
    assert isinstance(status, dict)
    conditions = status.get("conditions", [])
    return any(one["type"] == "Ready" and one["status"] == "True" for one in conditions)
