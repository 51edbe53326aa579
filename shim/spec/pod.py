"""How a spec says that its container shares a sandbox with others: the CRI plugin's annotations.

Source: containerd internal/cri/annotations; runsc reads the same ones (runsc/specutils/cri.go).
"""

from __future__ import annotations

from shim.spec import document
from shim.spec.document import Spec

CONTAINER_TYPE = "io.kubernetes.cri.container-type"
CONTAINER_NAME = "io.kubernetes.cri.container-name"
SANDBOX_ID = "io.kubernetes.cri.sandbox-id"
_MEMBER = "container"


def sandbox_of(spec: Spec) -> str:
    """Return the id of the sandbox that the container joins; empty when it has its own."""
    if spec.annotations.get(CONTAINER_TYPE) != _MEMBER:
        return ""
    return spec.annotations.get(SANDBOX_ID, "")


def name_of(spec: Spec) -> str:
    """Return the name by which runsc finds the container in an image of its pod."""
    return spec.annotations.get(CONTAINER_NAME, "")


def placed(spec: Spec, sandbox_id: str) -> Spec:
    """Return the spec with another sandbox named, where it names one."""
    if spec.annotations.get(SANDBOX_ID, sandbox_id) == sandbox_id:
        return spec
    data = {**spec.data, "annotations": {**spec.annotations, SANDBOX_ID: sandbox_id}}
    return document.parse(data, spec.bundle, restoring=True)
