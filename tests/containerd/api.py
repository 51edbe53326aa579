"""Calls containerd's services for what ctr has no option for: a given spec, a restore by Create."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from google.protobuf.any_pb2 import Any as AnyMessage

from hack.examples import containerd_pb2 as pb
from shim.api.containerd.runc.v1.options_pb2 import Options
from shim.api.containerd.types import mount_pb2
from tests.containerd.connection import Connection
from tests.containerd.cryo import RUNTIME, Cryo

_TASKS = "containerd.services.tasks.v1.Tasks"
_CONTAINERS = "containerd.services.containers.v1.Containers"
_SPEC = "types.containerd.io/opencontainers/runtime-spec/1/Spec"
_CALL_S = 60.0


class Api(Connection):
    """A client for one namespace of containerd, whose containers run in our shim."""

    def __init__(self, cryo: Cryo, timeout_s: float = _CALL_S) -> None:
        namespace = ("containerd-namespace", cryo.namespace)
        super().__init__(cryo.address, timeout_s=timeout_s, metadata=(namespace,))

    def container(self, name: str, spec: dict[str, Any], runtime: str = RUNTIME) -> None:
        """Create the record of a container."""
        packed = AnyMessage(type_url=_SPEC, value=json.dumps(spec).encode())
        record = pb.Container(id=name, runtime=pb.Runtime(name=runtime), spec=packed)
        request = pb.CreateContainerRequest(container=record)
        self.ask(_CONTAINERS, "Create", request, pb.Nothing)

    def create(self, name: str, rootfs: Path | None = None, image_path: str = "") -> None:
        """Create the task of a container; with an image, Start restores it.

        The default root filesystem is that of the spec.
        """
        request = pb.CreateTaskRequest(container_id=name)
        if rootfs is not None:
            how = {"type": "bind", "source": str(rootfs)}
            request.rootfs.append(mount_pb2.Mount(options=["rbind", "ro"], **how))
        if image_path:
            options = Options(criu_image_path=image_path)
            kind = options.DESCRIPTOR.full_name
            request.options.CopyFrom(AnyMessage(type_url=kind, value=options.SerializeToString()))
        self.ask(_TASKS, "Create", request, pb.CreateTaskResponse)

    def start(self, name: str) -> int:
        """Start a task; return its pid."""
        return self.ask(_TASKS, "Start", pb.StartRequest(container_id=name), pb.StartResponse).pid

    def end(self, name: str) -> None:
        """Kill a task, wait for its exit, and delete it."""
        self.ask(_TASKS, "Kill", pb.KillRequest(container_id=name, signal=9, all=True), pb.Nothing)
        self.ask(_TASKS, "Wait", pb.WaitRequest(container_id=name), pb.WaitResponse)
        self.ask(_TASKS, "Delete", pb.DeleteTaskRequest(container_id=name), pb.DeleteResponse)
