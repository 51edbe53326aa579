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
from tests.kubernetes.machine import Machine, clean_machine
from tests.kubernetes.network import Network, own_network
from tests.kubernetes.node import Extras, Node
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
def extras() -> Extras:
    """Return nothing; a file of tests may override this."""
    return Extras()


@pytest.fixture(scope="module")
def node(
    containerd_build: ContainerdBuild,
    network: Network,
    root: Path,
    runsc_new: RunscBuild,
    archive: Path,
    pause_archive: Path,
    extras: Extras,
) -> Iterator[Node]:
    """Yield a containerd with our runtime, on which pods may be restored."""
    plugins = program("cni").parent
    runsc = runsc_new.path
    with Node(
        containerd_build, network, runsc, kubelet=root, plugins=plugins, extras=extras
    ) as made:
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


@pytest.fixture(scope="module")
def trap_file(place: Place) -> Path:
    """Return the path of the trap file that the shims read, where `extras` arms them."""
    return place.folder_for("trap") / "trap.json"


@pytest.fixture(scope="module")
def machine(
    cluster: Cluster, node: Node, kubelet: Kubelet, root: Path, trap_file: Path
) -> Iterator[Machine]:
    """Yield the node; at the end check that its pods have left nothing behind."""
    with clean_machine(Machine(cluster, node, kubelet, trap_file), root) as made:
        yield made
