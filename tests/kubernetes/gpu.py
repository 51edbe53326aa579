"""Pods whose processes use a simulated GPU, on a node where every container has the device.

No device plugin runs here: the device is in the spec that containerd begins every container with.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from pathlib import Path

from shim.simgpu import bundle
from shim.simgpu.simulation import Settings, Simulation
from tests.containerd import gpu
from tests.containerd.builds import ContainerdBuild
from tests.containerd.place import Place
from tests.kubernetes.objects import Document
from tests.kubernetes.template import BIRTH, WRITE_BIRTH, container, document, probe

SETTINGS = Settings(processes=2, period_s=0.25)
# The processes make another step, which they do once they have begun.
_WORKS = shlex.join(bundle.workload_argv("ask", "verify", "moving"))


def write_base_spec(build: ContainerdBuild, place: Place) -> Path:
    """Write containerd's default spec with the GPU's control node."""
    spec = json.loads(place.do(str(build.folder / "ctr"), "oci", "spec"))
    gpu.give_gpu(spec)
    path = place.folder / "base-spec.json"
    path.write_text(json.dumps(spec), "utf-8")
    return path


def pod(sim: Simulation, name: str, *, node: str, notes: Mapping[str, str]) -> Document:
    """Return a pod whose container `app` runs a workload; it is warm when that works."""
    mounts, volumes = [], []
    for at, (source, target, how) in enumerate(gpu.binds(sim)):
        volumes.append({"name": f"host-{at}", "hostPath": {"path": str(source)}})
        mounts.append({"name": f"host-{at}", "mountPath": target, "readOnly": how == "ro"})
    # Sockets on a volume of the sandbox survive a save.
    volumes.append({"name": "tmp", "emptyDir": {"medium": "Memory"}})
    mounts.append({"name": "tmp", "mountPath": "/tmp"})
    run = shlex.join(gpu.workload(SETTINGS))
    app = container(
        "app",
        f"{WRITE_BIRTH}; exec {run}",
        readinessProbe=probe(exec={"command": ["test", "-e", BIRTH]}),
    )
    app["volumeMounts"] = mounts
    warm = {"io.cryo.warm-when": f"exec {_WORKS}", "io.cryo.warm-period": "0.5", **notes}
    spec = {"containers": [app], "volumes": volumes}
    return document(name, spec, node=node, namespace="default", notes=warm)


def container_of(pod: Document) -> str:
    """Return the id of the container of a pod that runs."""
    (found,) = pod["status"]["containerStatuses"]
    return str(found["containerID"]).removeprefix("containerd://")
