"""Calls containerd's CRI plugin as the kubelet does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import grpc
from google.protobuf.message import Message

from shim.simgpu.waiting import wait_until
from tests.containerd.connection import Answer, Connection
from tests.containerd.cri import cri_pb2 as pb

_CALL_S = 120.0
_UNTIL_S = 60.0


@dataclass(frozen=True)
class Pod:
    """A running pod, and its request."""

    id: str
    config: pb.PodSandboxConfig
    logs: Path


@dataclass(frozen=True)
class Wanted:
    """The request for a container."""

    name: str
    image: str
    command: Sequence[str]
    env: Mapping[str, str] = field(default_factory=dict)
    mounts: Sequence[pb.Mount] = ()
    devices: Sequence[pb.Device] = ()
    annotations: Mapping[str, str] = field(default_factory=dict)
    memory_limit_bytes: int = 0
    tty: bool = False

    def config(self) -> pb.ContainerConfig:
        """Return the CRI message."""
        resources = pb.LinuxContainerResources(memory_limit_in_bytes=self.memory_limit_bytes)
        return pb.ContainerConfig(
            metadata=pb.ContainerMetadata(name=self.name),
            image=pb.ImageSpec(image=self.image),
            command=self.command,
            envs=[pb.KeyValue(key=k, value=v.encode()) for k, v in self.env.items()],
            mounts=self.mounts,
            devices=self.devices,
            annotations=self.annotations,
            log_path=f"{self.name}.log",
            tty=self.tty,
            linux=pb.LinuxContainerConfig(
                resources=resources,
                security_context=pb.LinuxContainerSecurityContext(namespace_options=_shared()),
            ),
        )


class Kubelet(Connection):
    """The kubelet of one node. A call that fails raises grpc.RpcError."""

    def __init__(self, address: Path) -> None:
        super().__init__(address, timeout_s=_CALL_S)

    # The runtime.

    def version(self) -> pb.VersionResponse:
        """Return the version of the runtime."""
        return self._call("Version", pb.VersionRequest(), pb.VersionResponse)

    def conditions(self) -> dict[str, bool]:
        """Return whether the runtime and the network are ready."""
        answer = self._call("Status", pb.StatusRequest(), pb.StatusResponse)
        return {condition.type: condition.status for condition in answer.status.conditions}

    def until_ready(self) -> None:
        """Wait until the plugin of a containerd that was just started answers."""

        def ready() -> bool:
            try:
                return self.conditions()["RuntimeReady"]
            except grpc.RpcError as error:
                starts = error.details() == "server is not initialized yet"
                if error.code() is not grpc.StatusCode.UNAVAILABLE and not starts:
                    raise
                return False

        wait_until(ready, "the CRI plugin", _UNTIL_S)

    def has_image(self, reference: str) -> bool:
        """Return whether the plugin has an image."""
        request = pb.ImageStatusRequest(image=pb.ImageSpec(image=reference))
        answer = self._call("ImageStatus", request, pb.ImageStatusResponse, service="ImageService")
        return bool(answer.image.id)

    # Pods.

    def run_pod(
        self,
        name: str,
        logs: Path,
        *,
        handler: str = "",
        cgroup: str = "",
        annotations: Mapping[str, str] | None = None,
        namespace: str = "default",
        attempt: int = 0,
    ) -> Pod:
        """Start a pod on the host's network; its containers' logs are in a directory."""
        identity = {"name": name, "uid": f"uid-{name}", "namespace": namespace}
        config = pb.PodSandboxConfig(
            metadata=pb.PodSandboxMetadata(attempt=attempt, **identity),
            log_directory=str(logs),
            annotations=annotations or {},
            linux=pb.LinuxPodSandboxConfig(
                cgroup_parent=f"/{cgroup}" if cgroup else "",
                security_context=pb.LinuxSandboxSecurityContext(namespace_options=_shared()),
            ),
        )
        request = pb.RunPodSandboxRequest(config=config, runtime_handler=handler)
        answer = self._call("RunPodSandbox", request, pb.RunPodSandboxResponse)
        return Pod(answer.pod_sandbox_id, config, logs)

    def pod_state(self, pod: Pod) -> str:
        """Return the name of the pod's state."""
        request = pb.PodSandboxStatusRequest(pod_sandbox_id=pod.id)
        answer = self._call("PodSandboxStatus", request, pb.PodSandboxStatusResponse)
        return pb.PodSandboxState.Name(answer.status.state)

    def pods(self) -> list[str]:
        """Return the ids of all pods."""
        answer = self._call("ListPodSandbox", pb.ListPodSandboxRequest(), pb.ListPodSandboxResponse)
        return [item.id for item in answer.items]

    def stop_pod(self, pod: Pod) -> None:
        """Stop a pod and all its containers."""
        self._call("StopPodSandbox", pb.StopPodSandboxRequest(pod_sandbox_id=pod.id), pb.Nothing)

    def remove_pod(self, pod: Pod) -> None:
        """Remove a pod and all its containers; stops them first."""
        self.remove_pods(pod.id)

    def remove_pods(self, *ids: str) -> None:
        """Remove pods by their ids, as above."""
        for one in ids:
            stop = pb.StopPodSandboxRequest(pod_sandbox_id=one)
            self._call("StopPodSandbox", stop, pb.Nothing)
            remove = pb.RemovePodSandboxRequest(pod_sandbox_id=one)
            self._call("RemovePodSandbox", remove, pb.Nothing)

    def warm_up(self, logs: Path, image: str, *, handler: str = "", cgroup: str = "") -> None:
        """Run a pod with a container, which creates directories that all later ones share."""
        pod = self.run_pod("first", logs, handler=handler, cgroup=cgroup)
        try:
            self.until_exited(self.run(pod, Wanted("first", image, ["true"])))
        finally:
            self.remove_pod(pod)

    # Containers.

    def create(self, pod: Pod, wanted: Wanted) -> str:
        """Create a container in a pod; return its id."""
        request = pb.CreateContainerRequest(
            pod_sandbox_id=pod.id, config=wanted.config(), sandbox_config=pod.config
        )
        return self._call("CreateContainer", request, pb.CreateContainerResponse).container_id

    def start(self, container: str) -> None:
        """Start a container."""
        self._call("StartContainer", pb.StartContainerRequest(container_id=container), pb.Nothing)

    def run(self, pod: Pod, wanted: Wanted) -> str:
        """Create and start a container; return its id."""
        container = self.create(pod, wanted)
        self.start(container)
        return container

    def status(self, container: str) -> pb.ContainerStatus:
        """Return the status of a container."""
        request = pb.ContainerStatusRequest(container_id=container)
        return self._call("ContainerStatus", request, pb.ContainerStatusResponse).status

    def state(self, container: str) -> str:
        """Return the name of a container's state."""
        return pb.ContainerState.Name(self.status(container).state)

    def until_exited(self, container: str, timeout_s: float = _UNTIL_S) -> pb.ContainerStatus:
        """Wait until a container has exited; return its status."""
        wait_until(
            lambda: self.state(container) == "CONTAINER_EXITED", f"exit of {container}", timeout_s
        )
        return self.status(container)

    def stop(self, container: str, grace_s: int = 0) -> None:
        """Stop a container, with SIGKILL after the grace period."""
        request = pb.StopContainerRequest(container_id=container, timeout=grace_s)
        self._call("StopContainer", request, pb.Nothing)

    def remove(self, container: str) -> None:
        """Remove a container."""
        request = pb.RemoveContainerRequest(container_id=container)
        self._call("RemoveContainer", request, pb.Nothing)

    def containers(self) -> dict[str, str]:
        """Return the names of all containers, by id."""
        answer = self._call("ListContainers", pb.ListContainersRequest(), pb.ListContainersResponse)
        return {container.id: container.metadata.name for container in answer.containers}

    def exec(self, container: str, *command: str, timeout_s: int = 90) -> pb.ExecSyncResponse:
        """Run a command in a container and wait for its exit."""
        request = pb.ExecSyncRequest(container_id=container, cmd=command, timeout=timeout_s)
        return self._call("ExecSync", request, pb.ExecSyncResponse)

    def stats(self, container: str) -> pb.ContainerStats:
        """Return the resource usage of a container."""
        request = pb.ContainerStatsRequest(container_id=container)
        return self._call("ContainerStats", request, pb.ContainerStatsResponse).stats

    def limit_memory(self, container: str, limit_bytes: int) -> None:
        """Set the memory limit of a container."""
        resources = pb.LinuxContainerResources(memory_limit_in_bytes=limit_bytes)
        request = pb.UpdateContainerResourcesRequest(container_id=container, linux=resources)
        self._call("UpdateContainerResources", request, pb.Nothing)

    def checkpoint(self, container: str, archive: Path) -> None:
        """Write a checkpoint of a running container into an archive."""
        request = pb.CheckpointContainerRequest(container_id=container, location=str(archive))
        self._call("CheckpointContainer", request, pb.Nothing)

    def _call(
        self,
        method: str,
        request: Message,
        answer: type[Answer],
        *,
        service: str = "RuntimeService",
    ) -> Answer:
        return self.ask(f"runtime.v1.{service}", method, request, answer)


def log_lines(pod: Pod, wanted: Wanted, stream: str = "stdout") -> list[str]:
    """Return the lines that a container has written to its log; each has a time and a tag."""
    lines = (pod.logs / f"{wanted.name}.log").read_text("utf-8").splitlines()
    split = [line.split(" ", 3) for line in lines]
    return [parts[3] for parts in split if parts[1] == stream]


def _shared() -> pb.NamespaceOption:
    """Request the host's network, so that no CNI plugin is needed."""
    return pb.NamespaceOption(network=pb.NODE, pid=pb.CONTAINER)
