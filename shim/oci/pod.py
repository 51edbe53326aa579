"""The CRI plugin's annotations, by which containers share a sandbox.

Source: containerd internal/cri/annotations; runsc reads the same ones (runsc/specutils/cri.go).
"""

from __future__ import annotations

from collections.abc import Mapping

from shim.oci import document
from shim.oci.document import Spec

CONTAINER_TYPE = "io.kubernetes.cri.container-type"
CONTAINER_NAME = "io.kubernetes.cri.container-name"
SANDBOX_ID = "io.kubernetes.cri.sandbox-id"
SANDBOX_NAME = "io.kubernetes.cri.sandbox-name"
SANDBOX_UID = "io.kubernetes.cri.sandbox-uid"
SANDBOX_NAMESPACE = "io.kubernetes.cri.sandbox-namespace"
IMAGE_NAME = "io.kubernetes.cri.image-name"
_MEMBER = "container"
_SANDBOX = "sandbox"


def sandbox_of(spec: Spec) -> str:
    """Return the id of the sandbox that the container joins; empty when it has its own."""
    return sandbox_in(spec.annotations)


def sandbox_in(annotations: Mapping[str, str]) -> str:
    """Return the id of the sandbox that a container with these annotations joins, as above."""
    if annotations.get(CONTAINER_TYPE) != _MEMBER:
        return ""
    return annotations.get(SANDBOX_ID, "")


def name_of(spec: Spec) -> str:
    """Return the name by which runsc finds the container in an image of its pod."""
    return spec.annotations.get(CONTAINER_NAME, "")


def is_sandbox(spec: Spec) -> bool:
    """Whether the container is the first one of a pod."""
    return spec.annotations.get(CONTAINER_TYPE) == _SANDBOX


def kubernetes_namespace(spec: Spec) -> str | None:
    """Return the Kubernetes namespace of a container of a pod; None for any other container."""
    return spec.annotations.get(SANDBOX_NAMESPACE)


def joined(spec: Spec, name: str, sandbox_id: str) -> Spec:
    """Return the spec of a container that joins a sandbox under a name."""
    wanted = {CONTAINER_TYPE: _MEMBER, CONTAINER_NAME: name, SANDBOX_ID: sandbox_id}
    return document.annotated(spec, wanted)


def leading(spec: Spec, sandbox_id: str) -> Spec:
    """Return the spec of a sandbox's first container, with the sandbox's id if it is a pod's.

    A container outside a pod has no such annotation, and gets none.
    """
    return document.annotated(
        spec, {SANDBOX_ID: sandbox_id} if SANDBOX_ID in spec.annotations else {}
    )
