"""Fixtures: a cluster of one node with a real kubelet, API server and containerd."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from hack.tools.running import NotHere
from shim.simgpu import toml
from tests.builds import RunscBuild, excuse
from tests.containerd.builds import ContainerdBuild, find_containerd
from tests.containerd.config import Cri
from tests.containerd.conftest import archive, make_ready, pause_archive, place, program
from tests.containerd.cri.client import Kubelet as Client
from tests.containerd.cryo import RUNTIME, Cryo
from tests.containerd.image import PAUSE
from tests.containerd.place import Place
from tests.kubernetes.cluster import Cluster
from tests.kubernetes.control_plane import ControlPlane, control_plane
from tests.kubernetes.network import BRIDGE, SUBNET, Network, own_network
from tests.kubernetes.registered import NODE, Kubelet
from tests.kubernetes.template import RUNTIME_CLASS

__all__ = ["archive", "pause_archive", "place"]

_PLUGINS = ("bridge", "host-local", "loopback")


@pytest.fixture(scope="session", autouse=True)
def require_root() -> None:
    """Skip these tests if we are not root, or fail them in CI."""
    if os.geteuid() != 0:
        excuse("a kubelet needs root")


class Node(Cryo):
    """A containerd whose pods have addresses in the network of a test."""

    def prepare(self) -> None:
        """Install CNI's plugins, and write their configuration."""
        super().prepare()
        for name in ("bin", "conf"):
            (self.folder / "cni" / name).mkdir(parents=True)
        for name in _PLUGINS:
            (self.folder / "cni/bin" / name).symlink_to(program("cni", name))
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


@pytest.fixture(scope="session", params=("2.1", "2.4"))
def containerd_build(request: pytest.FixtureRequest) -> ContainerdBuild:
    """Return the containerd of each line in turn."""
    try:
        return find_containerd(request.param)
    except NotHere as no:
        excuse(str(no))


@pytest.fixture(scope="module")
def network(place: Place, containerd_build: ContainerdBuild) -> Iterator[Network]:
    """Yield a network namespace; each containerd has its own cluster."""
    with own_network(place, program("busybox")) as made:
        yield made


@pytest.fixture(scope="module")
def plane(network: Network) -> Iterator[ControlPlane]:
    """Yield a control plane that knows the RuntimeClass."""
    with control_plane(network, program("etcd"), program("kube-apiserver")) as made:
        made.objects.create(
            {
                "apiVersion": "node.k8s.io/v1",
                "kind": "RuntimeClass",
                "metadata": {"name": RUNTIME_CLASS},
                "handler": RUNTIME_CLASS,
            }
        )
        yield made


@pytest.fixture(scope="module")
def root(place: Place) -> Path:
    """Return the root directory of the kubelet."""
    return place.folder_for("kubelet-root")


@pytest.fixture(scope="module")
def node(
    containerd_build: ContainerdBuild,
    network: Network,
    root: Path,
    runsc_new: RunscBuild,
    archive: Path,
    pause_archive: Path,
) -> Iterator[Node]:
    """Yield a containerd with our runtime, on which pods may be restored."""
    cri = Cri(sandbox_image=PAUSE, runtimes={RUNTIME_CLASS: RUNTIME})
    settings: toml.Tables = {"pods": {"restore": True, "kubelet": str(root)}}
    with Node(
        containerd_build, network.place, runsc_new.path, flags={}, cri=cri, settings=settings
    ) as made:
        make_ready(made, archive, pause_archive, handler=RUNTIME_CLASS)
        yield made


@pytest.fixture(scope="module")
def kubelet(network: Network, plane: ControlPlane, root: Path, node: Node) -> Iterator[Kubelet]:
    """Yield the kubelet of the node."""
    made = Kubelet(
        network,
        program("kubelet"),
        plane,
        root=root,
        runtime=node.address,
        cgroup=node.cgroup,
    )
    with made:
        yield made


@pytest.fixture(scope="module")
def cluster(plane: ControlPlane, node: Node, kubelet: Kubelet) -> Iterator[Cluster]:
    """Yield a cluster of one node, whose kubelet runs."""
    assert kubelet.pid
    with Client(node.address) as runtime:
        yield Cluster(plane, NODE, node.folder / "images", runtime)
