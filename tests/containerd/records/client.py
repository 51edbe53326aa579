"""Changes containerd's record of a container, which ctr cannot."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from google.protobuf.field_mask_pb2 import FieldMask

from tests.containerd.connection import Connection
from tests.containerd.records import containers_pb2 as pb

_SERVICE = "containerd.services.containers.v1.Containers"
_CALL_S = 10.0


def edit_spec(
    address: Path, namespace: str, name: str, edit: Callable[[dict[str, Any]], None]
) -> None:
    """Change the OCI spec of a container that has no task yet."""
    metadata = (("containerd-namespace", namespace),)
    with Connection(address, timeout_s=_CALL_S, metadata=metadata) as records:
        wanted = pb.GetContainerRequest(id=name)
        container = records.ask(_SERVICE, "Get", wanted, pb.GetContainerResponse).container
        spec = json.loads(container.spec.value)
        edit(spec)
        container.spec.value = json.dumps(spec).encode()
        mask = FieldMask(paths=["spec"])
        request = pb.UpdateContainerRequest(container=container, update_mask=mask)
        records.ask(_SERVICE, "Update", request, pb.UpdateContainerResponse)
