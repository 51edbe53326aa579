"""A cluster of one node, as a test sees it: its pods, their events, and the images of the node."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc

from shim.simgpu.waiting import wait_until
from tests.containerd.cri import cri_pb2 as pb
from tests.containerd.cri.client import Kubelet
from tests.kubernetes.control_plane import ControlPlane
from tests.kubernetes.objects import Document

_READY_S = 120.0
_END_S = 120.0
_SAVED_S = 60.0


class Cluster:
    """The objects of the cluster, and the images that its node has made."""

    def __init__(self, plane: ControlPlane, node: str, images: Path, runtime: Kubelet) -> None:
        """Take the name of the node, the folder of its images, and a client of its CRI plugin."""
        self.plane = plane
        self.objects = plane.objects
        self.node = node
        self._images = images
        self._runtime = runtime

    # Pods.

    def start(self, *pods: Document, timeout_s: float = _READY_S) -> float:
        """Create pods at once; return the seconds until the last one is ready."""
        begun = time.monotonic()
        with ThreadPoolExecutor(len(pods)) as calls:
            list(calls.map(self.objects.create, pods))
        for one in pods:
            self.until_ready(one, timeout_s)
        return time.monotonic() - begun

    def until_ready(self, pod: Document, timeout_s: float = _READY_S) -> None:
        """Wait until a pod is ready."""
        what = f"pod {pod['metadata']['name']} to be ready"
        wait_until(lambda: is_ready(self.read(pod)), what, timeout_s)

    def read(self, pod: Document) -> Document:
        """Return a pod as it is now.

        Raises:
            LookupError: it is gone.
        """
        meta = pod["metadata"]
        found = self.objects.read("Pod", meta["name"], meta["namespace"])
        if found is None:
            message = f"there is no pod {meta['name']}"
            raise LookupError(message)
        return found

    def remove(self, *pods: Document) -> None:
        """Delete pods, and wait until the kubelet has ended them."""
        for one in pods:
            meta = one["metadata"]
            self.objects.delete("Pod", meta["name"], meta["namespace"])
        for one in pods:
            self._until_gone(one["metadata"])

    def _until_gone(self, meta: Document) -> None:
        name, namespace = meta["name"], meta["namespace"]
        wait_until(
            lambda: self.objects.read("Pod", name, namespace) is None,
            f"the end of pod {name}",
            _END_S,
        )

    def exec(self, pod: Document, container: str, *command: str) -> str:
        """Run a command in a container; return its output."""
        statuses = statuses_of(self.read(pod))
        (found,) = (one for one in statuses if one["name"] == container)
        ran = self._exec_when_saved(found["containerID"].removeprefix("containerd://"), command)
        assert ran.exit_code == 0, ran.stderr.decode("utf-8", "replace")
        return ran.stdout.decode()

    def _exec_when_saved(self, container: str, command: Sequence[str]) -> pb.ExecSyncResponse:
        """Run a command; a pod that is being saved refuses it until it is."""
        answers: list[pb.ExecSyncResponse] = []

        def accepted() -> bool:
            try:
                answers.append(self._runtime.exec(container, *command))
            except grpc.RpcError as error:
                if error.code() is not grpc.StatusCode.ABORTED:
                    raise
            return bool(answers)

        wait_until(accepted, f"an exec in {container}", _SAVED_S)
        return answers[0]

    def number(self, pod: Document, container: str, path: str) -> int:
        """Return the number in a file's last line; it may be being written."""
        text = ""
        while not text.strip():
            text = self.exec(pod, container, "tail", "-n", "1", path)
        return int(text)

    def until_number(self, pod: Document, container: str, path: str, least: int) -> None:
        """Wait until the number in a file's last line has increased to this one."""
        what = f"{least} in {path}"
        wait_until(lambda: self.number(pod, container, path) >= least, what, _READY_S)

    def until_exists(self, pod: Document, container: str, path: str) -> None:
        """Wait until a container has a file."""
        find = ("sh", "-c", f"[ -e {path} ] && echo there || true")
        wait_until(
            lambda: self.exec(pod, container, *find) == "there\n", f"the file {path}", _READY_S
        )

    def event(self, pod: Document, reason: str, text: str) -> None:
        """Wait for an event about a pod with this reason and this text."""
        meta = pod["metadata"]
        of_pod = f"involvedObject.name={meta['name']}"

        def is_there() -> bool:
            events = self.objects.list("Event", meta["namespace"], fieldSelector=of_pod)
            return any(one["reason"] == reason and text in one["message"] for one in events)

        wait_until(is_there, f"the event {reason} of pod {meta['name']}: {text}", _READY_S)

    # Configuration.

    def configure(self, text: str, namespace: str = "default") -> None:
        """Write the text into the config map and the secret of the template."""
        self._write("ConfigMap", "conf", namespace, data={"key": text})
        self._write("Secret", "secret", namespace, stringData={"key": text})

    def _write(self, kind: str, name: str, namespace: str, **content: Any) -> None:
        meta = {"name": name, "namespace": namespace}
        wanted = {"apiVersion": "v1", "kind": kind, "metadata": meta, **content}
        known = self.objects.read(kind, name, namespace) is not None
        (self.objects.replace if known else self.objects.create)(wanted)

    # Images.

    def images(self, name: str, namespace: str = "default") -> Sequence[Path]:
        """List the complete images of a name."""
        found = (self._images / "k8s.io" / namespace / name).glob("*/[0-9]*/cryo.json")
        return sorted(path.parent for path in found)

    def until_saved(self, name: str, namespace: str = "default") -> Path:
        """Wait for the image of a name; return it."""
        wait_until(lambda: bool(self.images(name, namespace)), f"the image {name}", _SAVED_S)
        (found,) = self.images(name, namespace)
        return found

    def until_hits(self, name: str, hits: int, namespace: str = "default") -> None:
        """Wait until this many pods were restored from the images of a name."""
        path = self._images / "k8s.io" / namespace / name / ".use.json"

        def counted() -> bool:
            return bool(json.loads(path.read_text("utf-8"))["hits"] == hits)

        wait_until(counted, f"{hits} hits of {name}", _SAVED_S)


def is_ready(document: Document) -> bool:
    """Return whether a pod, or a node, has the condition Ready."""
    conditions = document.get("status", {}).get("conditions", [])
    return any(one["type"] == "Ready" and one["status"] == "True" for one in conditions)


def restarts(pod: Document) -> dict[str, int]:
    """Return how often each container of a pod was restarted."""
    return {one["name"]: one["restartCount"] for one in statuses_of(pod)}


def statuses_of(pod: Document) -> list[Document]:
    """Return the states of a pod's containers, those of init containers and side-cars included."""
    status = pod["status"]
    return [*status.get("initContainerStatuses", []), *status["containerStatuses"]]
