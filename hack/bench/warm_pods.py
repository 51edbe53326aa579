"""Cold and warm starts of pods, which a kubelet starts for an API server.

A pod has one container, which fills its memory with random bytes and listens then. A start takes
from the creation of the pods at the API server until the last one is Ready; the kubelet tries each
second to connect. `python -m hack.tools etcd kube-apiserver` obtains what `make tools` leaves out.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hack.bench import starts
from hack.bench.effort import Effort
from hack.bench.row import Rows
from hack.bench.starts import fill
from tests.builds import find_program
from tests.containerd import image
from tests.containerd.builds import find_containerd
from tests.containerd.cri.client import Kubelet as Client
from tests.containerd.place import private_place
from tests.kubernetes.cluster import Cluster
from tests.kubernetes.control_plane import control_plane
from tests.kubernetes.kubelet import NODE
from tests.kubernetes.network import own_network
from tests.kubernetes.node import Node
from tests.kubernetes.objects import Document
from tests.kubernetes.registered import Kubelet
from tests.kubernetes.template import RUNTIME_CLASS, container, document

LINE = "2.4"
PORT = 8080
READY_S = 600.0
TOOLS = ("busybox", "cni", "etcd", "kube-apiserver", "kubelet")
# A pod that does not become ready in time is not killed for it.
PROBE = {"tcpSocket": {"port": PORT}, "periodSeconds": 1, "failureThreshold": 600}


class Pods:
    """Creates and deletes pods."""

    def __init__(self, cluster: Cluster, node: Node) -> None:
        self._cluster = cluster
        self._node = node
        self._number = 0

    def save(self, name: str, mib: int) -> None:
        """Run a pod until it is saved under a name."""
        when = {"io.cryo.warm-when": f"tcp://:{PORT}", "io.cryo.warm-period": "0.1"}
        first = self._pod(mib, {"io.cryo.warm": name, **when})
        self._cluster.start(first, timeout_s=READY_S)
        self._node.named(name).until_saved()
        self._cluster.remove(first)

    def at_once(self, count: int, mib: int, name: str = "") -> float:
        """Create pods at once; return how many seconds it takes until all are ready."""
        pods = [self._pod(mib, {"io.cryo.restore": name} if name else {}) for _ in range(count)]
        spent = self._cluster.start(*pods, timeout_s=READY_S)
        self._cluster.remove(*pods)
        return spent

    def _pod(self, mib: int, annotations: dict[str, str]) -> Document:
        self._number += 1
        script = f"{fill(mib)}; busybox httpd -p {PORT}; sleep 10000"
        spec = {"containers": [container("app", script, readinessProbe=PROBE)]}
        name = f"pod-{self._number}"
        return document(name, spec, node=NODE, namespace="default", notes=annotations)


@contextmanager
def cluster_of_one(runsc: Path) -> Iterator[Pods]:
    """Yield the pods of a cluster of one node."""
    programs = {name: find_program(name) for name in TOOLS}
    build = find_containerd(LINE)
    with (
        private_place() as place,
        own_network(place, programs["busybox"]) as network,
        control_plane(network, programs["etcd"], programs["kube-apiserver"]) as plane,
        Node(
            build,
            network,
            runsc,
            kubelet=place.folder_for("kubelet-root"),
            plugins=programs["cni"].parent,
        ) as node,
        Client(node.address) as runtime,
    ):
        plane.add_runtime_class(RUNTIME_CLASS)
        for write in (image.write, image.write_pause):
            node.import_image(write(node.folder / "image.tar", programs["busybox"]))
        with Kubelet(node, programs["kubelet"], plane):
            yield Pods(Cluster(plane, NODE, node.images, runtime), node)


def measure(runsc: Path, effort: Effort) -> Rows:
    """Start a cluster, and measure.

    Raises:
        NotHere: a program of Kubernetes is not there.
    """
    with cluster_of_one(runsc) as pods:
        return starts.measured("warm-pods", pods, effort)
