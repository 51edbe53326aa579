"""A kubelet without an API server: it runs the pods whose manifests are in a directory."""

from __future__ import annotations

import http.client
import json
from pathlib import Path

from shim.simgpu.waiting import wait_until
from tests.kubernetes.cluster import is_ready
from tests.kubernetes.kubelet import NODE, KubeletDaemon
from tests.kubernetes.objects import Document

_READ_ONLY_PORT = 10255
_CALL_S = 30.0
_READY_S = 90.0


class StaticKubelet(KubeletDaemon):
    """A kubelet of static pods, whose names end with that of the node."""

    def prepare(self) -> None:
        """Create the directory of the manifests."""
        super().prepare()
        self._manifests.mkdir()

    def settings(self) -> dict[str, object]:
        """Return the document of its configuration."""
        more = {"staticPodPath": str(self._manifests), "readOnlyPort": _READ_ONLY_PORT}
        return {**super().settings(), **more, "fileCheckFrequency": "1s"}

    def answers(self) -> bool:
        """Return whether it serves, its pods included."""
        return super().answers() and self.network.listens(_READ_ONLY_PORT)

    @property
    def _manifests(self) -> Path:
        return self.folder / "root/manifests"

    def add(self, pod: Document) -> Document:
        """Add the manifest of a pod; return the pod as soon as it is ready.

        It runs in the node's default runtime: a kubelet without an API server crashes when it looks
        up a RuntimeClass.
        """
        spec = {key: value for key, value in pod["spec"].items() if key != "runtimeClassName"}
        # Elsewhere first: the kubelet reads a manifest as soon as there is one.
        self.write("manifest.json", {**pod, "spec": spec})
        (self.folder / "root/manifest.json").rename(self._manifest(pod))
        found: list[Document] = []

        def ready() -> bool:
            found[:] = [one for one in self.pods() if one["metadata"]["name"] == _name(pod)]
            return bool(found) and is_ready(found[0])

        wait_until(ready, f"static pod {_name(pod)} to be ready", _READY_S)
        return found[0]

    def drop(self, pod: Document) -> None:
        """Remove the manifest of a pod, so that the kubelet ends it."""
        self._manifest(pod).unlink()

    def pods(self) -> list[Document]:
        """List the pods as they are now."""
        connection = http.client.HTTPConnection("127.0.0.1", _READ_ONLY_PORT)
        connection.sock = self.network.connect(_READ_ONLY_PORT, _CALL_S)
        try:
            connection.request("GET", "/pods")
            answer = json.loads(connection.getresponse().read())
        finally:
            connection.close()
        # null without pods
        found: list[Document] | None = answer["items"]
        return found or []

    def _manifest(self, pod: Document) -> Path:
        return self._manifests / f"{pod['metadata']['name']}.json"


def _name(pod: Document) -> str:
    return f"{pod['metadata']['name']}-{NODE}"
