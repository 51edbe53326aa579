"""Fixtures: a cluster of one node with a real kubelet, API server and containerd."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.builds import RunscBuild
from tests.containerd.builds import ContainerdBuild
from tests.containerd.conftest import (
    archive,
    build_of,
    make_ready,
    pause_archive,
    place,
    program,
    require_root,
)
from tests.containerd.cri.client import Kubelet as Client
from tests.containerd.place import Place
from tests.kubernetes.cluster import Cluster
from tests.kubernetes.control_plane import ControlPlane, control_plane
from tests.kubernetes.kubelet import NODE
from tests.kubernetes.network import Network, own_network
from tests.kubernetes.node import Node
from tests.kubernetes.registered import Kubelet
from tests.kubernetes.template import RUNTIME_CLASS

__all__ = ["archive", "pause_archive", "place", "require_root"]


@pytest.fixture(scope="session", params=("2.1", "2.4"))
def containerd_build(request: pytest.FixtureRequest) -> ContainerdBuild:
    """Return the containerd of each line in turn."""
    return build_of(request.param)


@pytest.fixture(scope="module")
def network(place: Place, containerd_build: ContainerdBuild) -> Iterator[Network]:
    """Yield a network namespace; each containerd has its own cluster."""
    with own_network(place, program("busybox")) as made:
        yield made


@pytest.fixture(scope="module")
def plane(network: Network) -> Iterator[ControlPlane]:
    """Yield a control plane that knows the RuntimeClass."""
    with control_plane(network, program("etcd"), program("kube-apiserver")) as made:
        made.add_runtime_class(RUNTIME_CLASS)
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
    plugins = program("cni").parent
    with Node(containerd_build, network, runsc_new.path, kubelet=root, plugins=plugins) as made:
        make_ready(made, archive, pause_archive, handler=RUNTIME_CLASS)
        yield made


@pytest.fixture(scope="module")
def kubelet(plane: ControlPlane, node: Node) -> Iterator[Kubelet]:
    """Yield the kubelet of the node."""
    with Kubelet(node, program("kubelet"), plane) as made:
        yield made


@pytest.fixture(scope="module")
def cluster(plane: ControlPlane, node: Node, kubelet: Kubelet) -> Iterator[Cluster]:
    """Yield a cluster of one node, whose kubelet runs."""
    assert kubelet.pid
    with Client(node.address) as runtime:
        yield Cluster(plane, NODE, node.images, runtime)
