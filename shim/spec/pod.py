"""How a spec says that its container shares a sandbox with others: the CRI plugin's annotations.

Source: containerd internal/cri/annotations; runsc reads the same ones (runsc/specutils/cri.go).
"""

from __future__ import annotations

from shim.spec.document import Spec

CONTAINER_TYPE = "io.kubernetes.cri.container-type"
SANDBOX_ID = "io.kubernetes.cri.sandbox-id"
_MEMBER = "container"


def sandbox_of(spec: Spec) -> str:
    """Return the id of the sandbox that the container joins; empty when it has its own."""
    if spec.annotations.get(CONTAINER_TYPE) != _MEMBER:
        return ""
    return spec.annotations.get(SANDBOX_ID, "")
