"""A kubelet that is registered at an API server."""

from __future__ import annotations

from pathlib import Path

from tests.kubernetes.cluster import is_ready
from tests.kubernetes.control_plane import ControlPlane
from tests.kubernetes.kubelet import NODE, KubeletDaemon
from tests.kubernetes.node import Node


class Kubelet(KubeletDaemon):
    """A kubelet that runs the pods that the API server has for its node."""

    def __init__(self, node: Node, program: Path, plane: ControlPlane) -> None:
        super().__init__(node, program)
        self._plane = plane

    def prepare(self) -> None:
        """Write the configuration, and that of its client."""
        super().prepare()
        self.write("kubeconfig.json", self._plane.kubeconfig())

    def options(self) -> dict[str, str]:
        """Return the options of the command line."""
        return {**super().options(), "kubeconfig": str(self.folder / "root/kubeconfig.json")}

    def answers(self) -> bool:
        """Return whether it serves, and its node is registered and ready."""
        if not super().answers():
            return False
        node = self._plane.objects.read("Node", NODE)
        return node is not None and is_ready(node)
