"""Uses containerd without a shim: the sidecar runs, checkpoints and restores its tasks.

    cryo serve &
    python hack/examples/task_api.py --containerd /run/containerd/containerd.sock \
        --sidecar ttrpc+unix:///run/cryo/containerd.sock --bundle-rootfs DIR

The sidecar's address has containerd's format. containerd 2.4 needs the one of `server.ttrpc` in
config.toml, because it cleans up a task as soon as it has connected over gRPC. With 2.1 use
`grpc+/run/cryo/cryo.sock`: then the sidecar can be restarted while its tasks run, as long as
containerd itself is not restarted. Otherwise containerd reports them as exited, although they run.

With `server.containerd` in config.toml containerd receives their events. DIR is a root filesystem
with sh, sleep and cat.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import signal
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import grpc
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.message import Message

# So that this file can import its messages from any working directory.
sys.path.insert(0, str(Path(__file__).parents[2]))

from hack.examples import containerd_pb2 as pb
from shim.api.containerd.runc.v1.options_pb2 import CheckpointOptions, Options
from shim.api.containerd.types import mount_pb2, task_pb2

Answer = TypeVar("Answer", bound=Message)

# containerd runs the shim of this runtime to clean up after a lost task.
RUNTIME = "io.containerd.cryo.v1"
SANDBOX = "cryo-sidecar"
VERSION = 3
_OCI = "types.containerd.io/opencontainers/runtime-spec/1"
_TASKS = "containerd.services.tasks.v1.Tasks"
_CONTAINERS = "containerd.services.containers.v1.Containers"
_SANDBOXES = "containerd.services.sandbox.v1.Store"
_CALL_S = 60.0
_COUNT = "n=0; while sleep 0.1; do n=$((n+1)); echo $n > /tmp/n; done"


class Containerd:
    """One namespace of a containerd, with tasks that the sidecar serves. Raises grpc.RpcError."""

    def __init__(self, address: str, sidecar: str, namespace: str = "default") -> None:
        """Take containerd's socket, and the sidecar's address in containerd's format."""
        self._channel = grpc.insecure_channel(f"unix:{address.removeprefix('unix:')}")
        self._sidecar = sidecar
        self._metadata = (("containerd-namespace", namespace),)

    def __enter__(self) -> Self:
        """Create the sandbox record, without which containerd calls no external Task service."""
        record = pb.Sandbox(sandbox_id=SANDBOX, runtime=pb.Runtime(name=RUNTIME))
        self._call(_SANDBOXES, "Create", pb.StoreCreateRequest(sandbox=record), pb.Nothing)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        """Delete the sandbox record and close the connection."""
        with self._channel:
            request = pb.StoreDeleteRequest(sandbox_id=SANDBOX)
            self._call(_SANDBOXES, "Delete", request, pb.Nothing)

    def create_container(self, name: str, spec: dict[str, Any]) -> None:
        """Create a container that belongs to the sandbox."""
        runtime = pb.Runtime(name=RUNTIME)
        packed = _json("Spec", spec)
        container = pb.Container(id=name, runtime=runtime, spec=packed, sandbox=SANDBOX)
        request = pb.CreateContainerRequest(container=container)
        self._call(_CONTAINERS, "Create", request, pb.Nothing)

    def delete_container(self, name: str) -> None:
        """Delete a container whose task has been deleted."""
        self._call(_CONTAINERS, "Delete", pb.DeleteContainerRequest(id=name), pb.Nothing)

    def create(self, name: str, rootfs: Path, image_path: str = "") -> None:
        """Create the task of a container; with an image, Start restores it."""
        where = mount_pb2.Mount(type="bind", source=str(rootfs), options=["rbind", "ro"])
        # Up to 2.2 containerd reads the address from runc's options.
        options = Options(
            criu_image_path=image_path, task_api_address=self._sidecar, task_api_version=VERSION
        )
        request = pb.CreateTaskRequest(
            container_id=name,
            rootfs=[where],
            options=_packed(options),
            task_api_address=self._sidecar,
            task_api_version=VERSION,
        )
        self._call(_TASKS, "Create", request, pb.CreateTaskResponse)

    def start(self, name: str, exec_id: str = "") -> int:
        """Start the task or an exec; return its pid."""
        request = pb.StartRequest(container_id=name, exec_id=exec_id)
        return self._call(_TASKS, "Start", request, pb.StartResponse).pid

    def state(self, name: str) -> str:
        """Return the name of the task's state."""
        request = pb.GetRequest(container_id=name)
        return task_pb2.Status.Name(
            self._call(_TASKS, "Get", request, pb.GetResponse).process.status
        )

    def execute(self, name: str, exec_id: str, argv: Sequence[str], output: Path) -> int:
        """Run a program in a task, with its output in a file; return its exit status."""
        request = pb.ExecProcessRequest(
            container_id=name,
            exec_id=exec_id,
            stdout=f"file://{output}",
            spec=_json("Process", process(argv)),
        )
        self._call(_TASKS, "Exec", request, pb.Nothing)
        self.start(name, exec_id)
        status = self.wait(name, exec_id)
        gone = pb.DeleteProcessRequest(container_id=name, exec_id=exec_id)
        self._call(_TASKS, "DeleteProcess", gone, pb.DeleteResponse)
        return status

    def checkpoint(self, name: str, image_path: str, *, leave: bool = False) -> None:
        """Save the task into an image; with `leave` it keeps running."""
        options = CheckpointOptions(exit=not leave, image_path=image_path)
        request = pb.CheckpointTaskRequest(container_id=name, options=_packed(options))
        self._call(_TASKS, "Checkpoint", request, pb.Nothing)

    def kill(self, name: str, number: int = signal.SIGKILL) -> None:
        """Signal every process of the task."""
        request = pb.KillRequest(container_id=name, signal=number, all=True)
        self._call(_TASKS, "Kill", request, pb.Nothing)

    def wait(self, name: str, exec_id: str = "") -> int:
        """Wait for the task or an exec, and return its exit status."""
        request = pb.WaitRequest(container_id=name, exec_id=exec_id)
        return self._call(_TASKS, "Wait", request, pb.WaitResponse).exit_status

    def delete(self, name: str) -> int:
        """Delete a task that has exited; return its exit status."""
        request = pb.DeleteTaskRequest(container_id=name)
        return self._call(_TASKS, "Delete", request, pb.DeleteResponse).exit_status

    def _call(self, service: str, method: str, request: Message, answer: type[Answer]) -> Answer:
        call = self._channel.unary_unary(
            f"/{service}/{method}",
            request_serializer=type(request).SerializeToString,
            response_deserializer=answer.FromString,
        )
        made: Answer = call(request, timeout=_CALL_S, metadata=self._metadata)
        return made


def _packed(options: Message) -> AnyMessage:
    """Pack options as containerd does, with the type's name as type_url."""
    name = options.DESCRIPTOR.full_name
    return AnyMessage(type_url=name, value=options.SerializeToString())


def _json(kind: str, value: dict[str, Any]) -> AnyMessage:
    return AnyMessage(type_url=f"{_OCI}/{kind}", value=json.dumps(value).encode())


def process(argv: Sequence[str]) -> dict[str, Any]:
    """Return an OCI process."""
    user = {"uid": 0, "gid": 0}
    return {"args": list(argv), "cwd": "/", "env": ["PATH=/usr/bin:/bin"], "user": user}


def spec(argv: Sequence[str]) -> dict[str, Any]:
    """Return the OCI spec of a container; `create` mounts its root filesystem."""
    return {
        "ociVersion": "1.0.2",
        "process": process(argv),
        "root": {"path": "rootfs", "readonly": True},
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc"},
            {"destination": "/tmp", "type": "tmpfs", "source": "tmpfs"},  # noqa: S108
        ],
        "linux": {
            "namespaces": [{"type": kind} for kind in ("pid", "ipc", "uts", "mount", "network")]
        },
    }


@dataclass(frozen=True)
class Story:
    """The demo: a container that counts is saved, and restored as another one."""

    containerd: Containerd
    rootfs: Path
    scratch: Path

    def show(self) -> None:
        """Run it, and print a line for each step."""
        image = str(self.scratch / "image")
        argv = ["/bin/sh", "-c", _COUNT]
        with self.running("counts", argv):
            print(f"counts is {self.containerd.state('counts')}, at {self.count('counts')}")
            self.containerd.checkpoint("counts", image)
            print(f"saved into {image}; exit status {self.containerd.wait('counts')}")
        with self.running("goes-on", argv, image):
            print(f"goes-on is {self.containerd.state('goes-on')}, at {self.count('goes-on')}")

    @contextlib.contextmanager
    def running(self, name: str, argv: Sequence[str], image_path: str = "") -> Iterator[None]:
        """Start or restore a container, and delete it at the end."""
        containerd = self.containerd
        containerd.create_container(name, spec(argv))
        try:
            containerd.create(name, self.rootfs, image_path)
            try:
                containerd.start(name)
                yield
            finally:
                with contextlib.suppress(grpc.RpcError):  # it may have ended
                    containerd.kill(name)
                containerd.wait(name)
                containerd.delete(name)
        finally:
            containerd.delete_container(name)

    def count(self, name: str) -> int:
        """Return the current count of a container."""
        output = self.scratch / f"count-{name}"
        argv = ["/bin/sh", "-c", "until [ -s /tmp/n ]; do sleep 0.1; done; cat /tmp/n"]
        self.containerd.execute(name, "ask", argv, output)
        return int(output.read_text("utf-8"))


def main() -> int:
    """Run the steps; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--containerd", default="/run/containerd/containerd.sock")
    parser.add_argument("--sidecar", default="ttrpc+unix:///run/cryo/containerd.sock")
    parser.add_argument("--namespace", default="default")
    parser.add_argument(
        "--bundle-rootfs", type=Path, required=True, help="directory with sh, sleep and cat"
    )
    given = parser.parse_args()
    try:
        with (
            tempfile.TemporaryDirectory() as scratch,
            Containerd(given.containerd, given.sidecar, given.namespace) as containerd,
        ):
            Story(containerd, given.bundle_rootfs, Path(scratch)).show()
    except grpc.RpcError as error:
        print(error.details(), file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
