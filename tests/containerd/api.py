"""containerd's own services for what ctr cannot say: a spec of one's own, an image for a task."""

from __future__ import annotations

import json
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import grpc
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.message import Message

from hack.examples import containerd_pb2 as pb
from shim.api.containerd.runc.v1.options_pb2 import Options
from shim.api.containerd.types import mount_pb2
from tests.containerd.cryo import RUNTIME, Cryo

Answer = TypeVar("Answer", bound=Message)
_TASKS = "containerd.services.tasks.v1.Tasks"
_CONTAINERS = "containerd.services.containers.v1.Containers"
_SPEC = "types.containerd.io/opencontainers/runtime-spec/1/Spec"
_CALL_S = 60.0


class Api:
    """A context that holds one connection. Each call raises grpc.RpcError when it is refused."""

    def __init__(self, cryo: Cryo) -> None:
        self._channel = grpc.insecure_channel(f"unix:{cryo.address}")
        self._metadata = (("containerd-namespace", cryo.namespace),)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self._channel.close()

    def container(self, name: str, spec: dict[str, Any]) -> None:
        """Make the record of a container."""
        packed = AnyMessage(type_url=_SPEC, value=json.dumps(spec).encode())
        record = pb.Container(id=name, runtime=pb.Runtime(name=RUNTIME), spec=packed)
        request = pb.CreateContainerRequest(container=record)
        self._call(_CONTAINERS, "Create", request, pb.Nothing)

    def create(self, name: str, rootfs: Path | None = None, image_path: str = "") -> None:
        """Make the task of a container; with an image, Start brings that back.

        Without a root file system it is the one that the spec names.
        """
        request = pb.CreateTaskRequest(container_id=name)
        if rootfs is not None:
            how = {"type": "bind", "source": str(rootfs)}
            request.rootfs.append(mount_pb2.Mount(options=["rbind", "ro"], **how))
        if image_path:
            options = Options(criu_image_path=image_path)
            kind = options.DESCRIPTOR.full_name
            request.options.CopyFrom(AnyMessage(type_url=kind, value=options.SerializeToString()))
        self._call(_TASKS, "Create", request, pb.CreateTaskResponse)

    def start(self, name: str) -> int:
        """Start a task; return its pid."""
        return self._call(_TASKS, "Start", pb.StartRequest(container_id=name), pb.StartResponse).pid

    def end(self, name: str) -> None:
        """Kill a task, wait for its end, and delete it."""
        self._call(
            _TASKS, "Kill", pb.KillRequest(container_id=name, signal=9, all=True), pb.Nothing
        )
        self._call(_TASKS, "Wait", pb.WaitRequest(container_id=name), pb.WaitResponse)
        self._call(_TASKS, "Delete", pb.DeleteTaskRequest(container_id=name), pb.DeleteResponse)

    def _call(self, service: str, method: str, request: Message, answer: type[Answer]) -> Answer:
        call = self._channel.unary_unary(
            f"/{service}/{method}",
            request_serializer=type(request).SerializeToString,
            response_deserializer=answer.FromString,
        )
        made: Answer = call(request, timeout=_CALL_S, metadata=self._metadata)
        return made
