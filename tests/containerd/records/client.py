"""Changes what containerd has on record about a container, where ctr cannot."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import grpc
from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.message import Message

from tests.containerd.records import containers_pb2 as pb

Answer = TypeVar("Answer", bound=Message)
_SERVICE = "/containerd.services.containers.v1.Containers"
_CALL_S = 10.0


def edit_spec(
    address: Path, namespace: str, name: str, edit: Callable[[dict[str, Any]], None]
) -> None:
    """Change the OCI spec of a container that has no task yet."""
    with grpc.insecure_channel(f"unix://{address}") as channel:

        def call(method: str, request: Message, answer: type[Answer]) -> Answer:
            made: Answer = channel.unary_unary(
                f"{_SERVICE}/{method}",
                request_serializer=type(request).SerializeToString,
                response_deserializer=answer.FromString,
            )(request, timeout=_CALL_S, metadata=(("containerd-namespace", namespace),))
            return made

        container = call("Get", pb.GetContainerRequest(id=name), pb.GetContainerResponse).container
        spec = json.loads(container.spec.value)
        edit(spec)
        container.spec.value = json.dumps(spec).encode()
        mask = FieldMask(paths=["spec"])
        request = pb.UpdateContainerRequest(container=container, update_mask=mask)
        call("Update", request, pb.UpdateContainerResponse)
