"""Converts the messages of containerd's Task service to plain values and back.

`to_*` makes a message, `from_*` makes a value. Servers and clients use both.
"""

from __future__ import annotations

from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.message import DecodeError

from shim.api.containerd.runc.v1 import options_pb2
from shim.api.containerd.task.v3 import shim_pb2
from shim.api.containerd.types import mount_pb2, task_pb2
from shim.api.cryo.v1 import cryo_pb2
from shim.errors import InvalidArgument
from shim.model import (
    CheckpointOptions,
    CreateRequest,
    Exit,
    Mount,
    Pids,
    ProcessView,
    Stdio,
    TaskRef,
)
from shim.service.convert import from_streams, from_time, to_time
from shim.state import TaskState

# containerd has no such states: a checkpoint is shown as pausing, a restore as not started.
_STATUSES = {
    TaskState.CREATED: task_pb2.CREATED,
    TaskState.RUNNING: task_pb2.RUNNING,
    TaskState.PAUSED: task_pb2.PAUSED,
    TaskState.CHECKPOINTING: task_pb2.PAUSING,
    TaskState.RESTORING: task_pb2.CREATED,
    TaskState.STOPPED: task_pb2.STOPPED,
    TaskState.DELETED: task_pb2.STOPPED,
}
_FROM_STATUS = {
    task_pb2.CREATED: TaskState.CREATED,
    task_pb2.RUNNING: TaskState.RUNNING,
    task_pb2.PAUSED: TaskState.PAUSED,
    task_pb2.PAUSING: TaskState.CHECKPOINTING,
    task_pb2.STOPPED: TaskState.STOPPED,
}


def to_mount(mount: Mount) -> mount_pb2.Mount:
    """Encode a rootfs mount."""
    return mount_pb2.Mount(
        type=mount.type, source=mount.source, target=mount.target, options=mount.options
    )


def from_mount(message: mount_pb2.Mount) -> Mount:
    """Decode a rootfs mount."""
    return Mount(
        type=message.type,
        source=message.source,
        target=message.target,
        options=tuple(message.options),
    )


def to_create(request: CreateRequest) -> shim_pb2.CreateTaskRequest:
    """Encode a Create request; the namespace is sent as metadata."""
    stdio = request.stdio
    return shim_pb2.CreateTaskRequest(
        id=request.ref.id,
        bundle=request.bundle,
        rootfs=[to_mount(mount) for mount in request.rootfs],
        terminal=stdio.terminal,
        stdin=stdio.stdin,
        stdout=stdio.stdout,
        stderr=stdio.stderr,
        checkpoint=request.checkpoint,
        options=_to_options(request.annotations),
    )


def from_create(message: shim_pb2.CreateTaskRequest, ref: TaskRef) -> CreateRequest:
    """Decode a Create request."""
    return CreateRequest(
        ref=ref,
        bundle=message.bundle,
        rootfs=tuple(from_mount(mount) for mount in message.rootfs),
        stdio=from_streams(message),
        checkpoint=message.checkpoint,
        annotations=_from_options(message.options),
    )


def _to_options(annotations: dict[str, str]) -> AnyMessage | None:
    if not annotations:
        return None
    packed = AnyMessage()
    packed.Pack(cryo_pb2.CreateOptions(annotations=annotations))
    return packed


def _from_options(options: AnyMessage) -> dict[str, str]:
    """Decode our own options; those of containerd, which are for the shim's start, are not used."""
    found = cryo_pb2.CreateOptions()
    if not options.Is(found.DESCRIPTOR):
        return {}
    try:
        options.Unpack(found)
    except DecodeError as error:
        message = "the options of the Create are garbled"
        raise InvalidArgument(message) from error
    return dict(found.annotations)


def to_state(view: ProcessView) -> shim_pb2.StateResponse:
    """Encode the state of a process."""
    message = shim_pb2.StateResponse(
        id=view.id,
        exec_id=view.exec_id,
        bundle=view.bundle,
        pid=view.pid,
        status=_STATUSES[view.state],
        stdin=view.stdio.stdin,
        stdout=view.stdio.stdout,
        stderr=view.stdio.stderr,
        terminal=view.stdio.terminal,
    )
    if view.exit is not None:
        message.exit_status = view.exit.status
        message.exited_at.CopyFrom(to_time(view.exit.at))
    return message


def from_state(message: shim_pb2.StateResponse) -> ProcessView:
    """Decode the state of a process."""
    return ProcessView(
        id=message.id,
        exec_id=message.exec_id,
        bundle=message.bundle,
        pid=message.pid,
        state=_FROM_STATUS.get(message.status, TaskState.CREATED),
        stdio=from_streams(message),
        exit=_exit_of(message) if message.HasField("exited_at") else None,
    )


def to_delete(view: ProcessView) -> shim_pb2.DeleteResponse:
    """Encode the last view of a process."""
    message = shim_pb2.DeleteResponse(pid=view.pid)
    if view.exit is not None:
        message.exit_status = view.exit.status
        message.exited_at.CopyFrom(to_time(view.exit.at))
    return message


def from_delete(message: shim_pb2.DeleteResponse, id: str, exec_id: str) -> ProcessView:
    """Decode the last view of a process; the message contains only its exit."""
    return ProcessView(
        id=id,
        exec_id=exec_id,
        bundle="",
        pid=message.pid,
        state=TaskState.DELETED,
        stdio=Stdio(),
        exit=_exit_of(message) if message.HasField("exited_at") else None,
    )


def to_wait(ended: Exit) -> shim_pb2.WaitResponse:
    """Encode the exit of a process."""
    return shim_pb2.WaitResponse(exit_status=ended.status, exited_at=to_time(ended.at))


def from_wait(message: shim_pb2.WaitResponse) -> Exit:
    """Decode the exit of a process."""
    return _exit_of(message)


def _exit_of(
    message: shim_pb2.StateResponse | shim_pb2.DeleteResponse | shim_pb2.WaitResponse,
) -> Exit:
    return Exit(status=message.exit_status, at=from_time(message.exited_at))


def to_pids(pids: Pids) -> shim_pb2.PidsResponse:
    """Encode the response of Pids."""
    processes = [task_pb2.ProcessInfo(pid=pid) for pid in pids.host]
    return shim_pb2.PidsResponse(processes=processes, guest_pids=pids.guest)


def from_pids(message: shim_pb2.PidsResponse) -> Pids:
    """Decode the response of Pids."""
    host = tuple(process.pid for process in message.processes)
    return Pids(host=host, guest=tuple(message.guest_pids))


def from_task_checkpoint(message: shim_pb2.CheckpointTaskRequest) -> CheckpointOptions:
    """Decode containerd's Checkpoint; its own path takes precedence over that of its options.

    Raises:
        InvalidArgument: the options are of an unknown type, or cannot be decoded.
    """
    options = options_pb2.CheckpointOptions()
    packed = message.options
    if packed.type_url:
        _check_type(packed, options.DESCRIPTOR.full_name)
        try:
            options.ParseFromString(packed.value)
        except DecodeError as error:
            text = "the checkpoint options are garbled"
            raise InvalidArgument(text) from error
    # containerd makes the folder itself.
    return CheckpointOptions(
        image_path=message.path or options.image_path, exit=options.exit, fill=True
    )


def _check_type(packed: AnyMessage, name: str) -> None:
    if packed.type_url.rpartition("/")[2] != name:
        message = f"checkpoint options of type {packed.type_url!r} are not known"
        raise InvalidArgument(message, remedy=f"send {name}, or none")
