"""Protobuf messages to plain values and back: the one place that knows both.

`to_*` makes a message, `from_*` makes a value. Both the servicers and the client use it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, TypeVar

from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import DecodeError
from google.protobuf.timestamp_pb2 import Timestamp

from shim.api.containerd.runc.v1 import options_pb2
from shim.api.containerd.task.v3 import shim_pb2
from shim.api.containerd.types import mount_pb2, task_pb2
from shim.api.cryo.v1 import cryo_pb2
from shim.errors import InvalidArgument
from shim.host.text import printable
from shim.model import (
    CheckpointOptions,
    CheckpointResult,
    Connections,
    CreateRequest,
    CudaMode,
    CudaProcess,
    EngineName,
    ExecProcesses,
    Exit,
    ImageView,
    MemberOptions,
    Mount,
    Phase,
    Pids,
    ProcessView,
    Progress,
    RestoreOptions,
    RestoreResult,
    Stdio,
    TaskRef,
    TaskView,
    Verify,
)
from shim.spec import canonical
from shim.state import TaskState

PROCESS_TYPE = "types.containerd.io/opencontainers/runtime-spec/1/Process"
RESOURCES_TYPE = "types.containerd.io/opencontainers/runtime-spec/1/LinuxResources"

# protobuf's Duration ends here; also keeps a nonsense number from overflowing a timer.
_TIMEOUT_MAX_S = 365 * 86400.0
_JSON_MAX = 1 << 20
_TEXT_MAX = 4096

_Key = TypeVar("_Key")
_Number = TypeVar("_Number")

_ENGINES = {name: cryo_pb2.Engine.Value(f"ENGINE_{name.name}") for name in EngineName}
_MODES = {name: cryo_pb2.CudaMode.Value(f"CUDA_MODE_{name.name}") for name in CudaMode}
_CONNECTIONS = {
    name: cryo_pb2.Connections.Value(f"CONNECTIONS_{name.name}") for name in Connections
}
_EXEC_PROCESSES = {
    name: cryo_pb2.ExecProcesses.Value(f"EXEC_PROCESSES_{name.name}") for name in ExecProcesses
}
_VERIFY = {name: cryo_pb2.Verify.Value(f"VERIFY_{name.name}") for name in Verify}
_PHASES = {name: cryo_pb2.Phase.Value(f"PHASE_{name.name}") for name in Phase}
_STATES = {name: cryo_pb2.TaskState.Value(f"TASK_STATE_{name.name}") for name in TaskState}

# containerd has no words for our two: a checkpoint shows as pausing, a restore as not started.
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


def _named(table: Mapping[_Key, _Number], number: _Number, what: str) -> _Key:
    for key, value in table.items():
        if value == number:
            return key
    message = f"{what} {number} is not known"
    raise InvalidArgument(message, remedy="use a client and a sidecar of the same version")


# --- time -----------------------------------------------------------------------------------


def to_time(at: datetime) -> Timestamp:
    """Write a moment."""
    stamp = Timestamp()
    stamp.FromDatetime(at)
    return stamp


def from_time(stamp: Timestamp) -> datetime:
    """Read a moment, in UTC."""
    return stamp.ToDatetime(tzinfo=UTC)


def to_duration(seconds: float) -> Duration | None:
    """Write a timeout; 0 is left out."""
    if not seconds:
        return None
    duration = Duration()
    duration.FromNanoseconds(round(min(seconds, _TIMEOUT_MAX_S) * 1e9))
    return duration


def from_duration(duration: Duration) -> float:
    """Read a timeout in seconds.

    Raises:
        InvalidArgument: negative.
    """
    seconds = duration.seconds + duration.nanos / 1e9
    if seconds < 0:
        message = f"a timeout of {seconds} s has no meaning"
        raise InvalidArgument(message, remedy="leave it out for the configured one")
    return min(seconds, _TIMEOUT_MAX_S)


# --- JSON in Any ----------------------------------------------------------------------------


def to_json(type_url: str, value: Mapping[str, Any]) -> AnyMessage:
    """Pack an OCI object as containerd does: JSON, with a type that names it."""
    return AnyMessage(type_url=type_url, value=json.dumps(value).encode())


def from_json(packed: AnyMessage, what: str) -> dict[str, Any]:
    """Read an OCI object.

    Raises:
        InvalidArgument: absent, too long, or no JSON object.
    """
    if len(packed.value) > _JSON_MAX:
        message = f"the {what} is longer than {_JSON_MAX} bytes"
        raise InvalidArgument(message)
    try:
        value = canonical.decode(packed.value)
    except ValueError as error:
        message = f"the {what} is no JSON: {error}"
        raise InvalidArgument(message) from error
    if isinstance(value, dict):
        return value
    message = f"the {what} is no JSON object"
    raise InvalidArgument(message)


# --- the task service -----------------------------------------------------------------------


def to_mount(mount: Mount) -> mount_pb2.Mount:
    """Write a rootfs mount."""
    return mount_pb2.Mount(
        type=mount.type, source=mount.source, target=mount.target, options=mount.options
    )


def from_mount(message: mount_pb2.Mount) -> Mount:
    """Read a rootfs mount."""
    return Mount(
        type=message.type,
        source=message.source,
        target=message.target,
        options=tuple(message.options),
    )


def to_create(request: CreateRequest) -> shim_pb2.CreateTaskRequest:
    """Write a Create request; the namespace goes beside it."""
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
    )


def from_create(message: shim_pb2.CreateTaskRequest, ref: TaskRef) -> CreateRequest:
    """Read a Create request."""
    return CreateRequest(
        ref=ref,
        bundle=message.bundle,
        rootfs=tuple(from_mount(mount) for mount in message.rootfs),
        stdio=from_streams(message),
        checkpoint=message.checkpoint,
    )


def from_streams(
    message: shim_pb2.CreateTaskRequest
    | shim_pb2.ExecProcessRequest
    | shim_pb2.StateResponse
    | cryo_pb2.Stdio,
) -> Stdio:
    """Read the four fields that say where a process's streams go."""
    return Stdio(
        stdin=message.stdin,
        stdout=message.stdout,
        stderr=message.stderr,
        terminal=message.terminal,
    )


def to_state(view: ProcessView) -> shim_pb2.StateResponse:
    """Write how a process is."""
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
    """Read how a process is."""
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
    """Write the last view of a process."""
    message = shim_pb2.DeleteResponse(pid=view.pid)
    if view.exit is not None:
        message.exit_status = view.exit.status
        message.exited_at.CopyFrom(to_time(view.exit.at))
    return message


def from_delete(message: shim_pb2.DeleteResponse, id: str, exec_id: str) -> ProcessView:
    """Read the last view of a process; the wire says only how it ended."""
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
    """Write how a process ended."""
    return shim_pb2.WaitResponse(exit_status=ended.status, exited_at=to_time(ended.at))


def from_wait(message: shim_pb2.WaitResponse) -> Exit:
    """Read how a process ended."""
    return _exit_of(message)


def _exit_of(
    message: shim_pb2.StateResponse | shim_pb2.DeleteResponse | shim_pb2.WaitResponse,
) -> Exit:
    return Exit(status=message.exit_status, at=from_time(message.exited_at))


def to_pids(pids: Pids) -> shim_pb2.PidsResponse:
    """Write the answer of Pids."""
    processes = [task_pb2.ProcessInfo(pid=pid) for pid in pids.host]
    return shim_pb2.PidsResponse(processes=processes, guest_pids=pids.guest)


def from_pids(message: shim_pb2.PidsResponse) -> Pids:
    """Read the answer of Pids."""
    host = tuple(process.pid for process in message.processes)
    return Pids(host=host, guest=tuple(message.guest_pids))


def from_task_checkpoint(message: shim_pb2.CheckpointTaskRequest) -> CheckpointOptions:
    """Read containerd's Checkpoint: the request's path comes before that of its options.

    Raises:
        InvalidArgument: the options are of a type that is not known, or garbled.
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


# --- cryo.v1 --------------------------------------------------------------------------------


def to_task(view: TaskView) -> cryo_pb2.TaskInfo:
    """Write a line of the listing of tasks."""
    ended = view.exit
    return cryo_pb2.TaskInfo(
        namespace=view.namespace,
        id=view.id,
        bundle=view.bundle,
        pid=view.pid,
        state=_STATES[view.state],
        created_at=to_time(view.created_at),
        restored_from=view.restored_from,
        gpu=view.gpu,
        exit=None if ended is None else cryo_pb2.Exit(status=ended.status, at=to_time(ended.at)),
        execs=view.execs,
        warning=printable(view.warning, _TEXT_MAX),
    )


def from_task(message: cryo_pb2.TaskInfo) -> TaskView:
    """Read a line of the listing of tasks."""
    ended = message.exit
    return TaskView(
        namespace=message.namespace,
        id=message.id,
        bundle=message.bundle,
        pid=message.pid,
        state=_named(_STATES, message.state, "task state"),
        created_at=from_time(message.created_at),
        restored_from=message.restored_from,
        gpu=message.gpu,
        exit=Exit(status=ended.status, at=from_time(ended.at))
        if message.HasField("exit")
        else None,
        execs=tuple(message.execs),
        warning=message.warning,
    )


def to_progress(progress: Progress) -> cryo_pb2.Progress:
    """Write one step of news."""
    return cryo_pb2.Progress(
        phase=_PHASES[progress.phase],
        message=printable(progress.message, _TEXT_MAX),
        bytes_done=progress.bytes_done,
        bytes_total=progress.bytes_total,
        pid=progress.pid,
        pid_state=progress.pid_state,
        container=progress.container,
        warning=progress.warning,
        elapsed=to_duration(progress.elapsed_s),
        took=to_duration(progress.took_s),
    )


def from_progress(message: cryo_pb2.Progress) -> Progress:
    """Read one step of news."""
    return Progress(
        phase=_named(_PHASES, message.phase, "phase"),
        message=message.message,
        bytes_done=message.bytes_done,
        bytes_total=message.bytes_total,
        pid=message.pid,
        pid_state=message.pid_state,
        container=message.container,
        warning=message.warning,
        elapsed_s=from_duration(message.elapsed),
        took_s=from_duration(message.took),
    )


def to_checkpoint(
    ref: TaskRef, options: CheckpointOptions, operation: str = ""
) -> cryo_pb2.CheckpointRequest:
    """Write a request for a checkpoint."""
    return cryo_pb2.CheckpointRequest(
        namespace=ref.namespace,
        id=ref.id,
        image_path=options.image_path,
        exit=options.exit,
        engine=_ENGINES[options.engine] if options.engine else None,
        cuda=_MODES[options.cuda] if options.cuda else None,
        connections=_CONNECTIONS[options.connections] if options.connections else None,
        exec_processes=_EXEC_PROCESSES[options.exec_processes] if options.exec_processes else None,
        timeout=to_duration(options.timeout_s),
        no_seal=not options.seal,
        compress=options.compress,
        direct=options.direct,
        operation=operation,
    )


def from_checkpoint(message: cryo_pb2.CheckpointRequest) -> CheckpointOptions:
    """Read a request for a checkpoint."""
    return CheckpointOptions(
        image_path=message.image_path,
        exit=message.exit,
        engine=_named(_ENGINES, message.engine, "engine") if message.HasField("engine") else None,
        cuda=_named(_MODES, message.cuda, "CUDA mode") if message.HasField("cuda") else None,
        connections=_named(_CONNECTIONS, message.connections, "connections policy")
        if message.HasField("connections")
        else None,
        exec_processes=_named(_EXEC_PROCESSES, message.exec_processes, "exec processes policy")
        if message.HasField("exec_processes")
        else None,
        timeout_s=from_duration(message.timeout),
        seal=not message.no_seal,
        compress=message.compress,
        direct=message.direct,
    )


def to_restore(
    ref: TaskRef, options: RestoreOptions, operation: str = ""
) -> cryo_pb2.RestoreRequest:
    """Write a request for a restore."""
    return cryo_pb2.RestoreRequest(
        namespace=ref.namespace,
        id=ref.id,
        image_path=options.image_path,
        bundle=options.bundle,
        stdio=_to_streams(options.stdio),
        verify=_VERIFY[options.verify],
        background=options.background,
        direct=options.direct,
        timeout=to_duration(options.timeout_s),
        device_map=options.device_map,
        operation=operation,
        members=[_to_member(member) for member in options.members],
        image_hooks=options.image_hooks,
        untrusted_folder=options.untrusted_folder,
        digest=options.digest,
    )


def _to_streams(stdio: Stdio) -> cryo_pb2.Stdio:
    return cryo_pb2.Stdio(
        stdin=stdio.stdin, stdout=stdio.stdout, stderr=stdio.stderr, terminal=stdio.terminal
    )


def _to_member(member: MemberOptions) -> cryo_pb2.RestoreMember:
    return cryo_pb2.RestoreMember(
        saved=member.saved,
        id=member.id,
        bundle=member.bundle,
        stdio=_to_streams(member.stdio),
    )


def _from_member(message: cryo_pb2.RestoreMember) -> MemberOptions:
    return MemberOptions(
        saved=message.saved,
        id=message.id,
        bundle=message.bundle,
        stdio=from_streams(message.stdio),
    )


def from_restore(message: cryo_pb2.RestoreRequest) -> RestoreOptions:
    """Read a request for a restore."""
    return RestoreOptions(
        image_path=message.image_path,
        bundle=message.bundle,
        stdio=from_streams(message.stdio),
        verify=from_verify(message.verify),
        background=message.background,
        direct=message.direct,
        timeout_s=from_duration(message.timeout),
        device_map=dict(message.device_map),
        members=tuple(_from_member(member) for member in message.members),
        image_hooks=message.image_hooks,
        untrusted_folder=message.untrusted_folder,
        digest=message.digest,
    )


def to_verify(mode: Verify) -> cryo_pb2.Verify.ValueType:
    """Write how much is read again."""
    return _VERIFY[mode]


def from_verify(number: cryo_pb2.Verify.ValueType) -> Verify:
    """Read how much is read again."""
    return _named(_VERIFY, number, "verify mode")


def to_checkpoint_result(result: CheckpointResult) -> cryo_pb2.CheckpointResult:
    """Write what a checkpoint made."""
    return cryo_pb2.CheckpointResult(
        image_path=result.image_path,
        size_bytes=result.size_bytes,
        digest=result.digest,
        engine=result.engine,
        processes=[_to_cuda(process) for process in result.processes],
        members=result.members,
        warnings=_texts(result.warnings),
        timings_s=result.timings_s,
    )


def from_checkpoint_result(message: cryo_pb2.CheckpointResult) -> CheckpointResult:
    """Read what a checkpoint made."""
    return CheckpointResult(
        image_path=message.image_path,
        size_bytes=message.size_bytes,
        digest=message.digest,
        engine=message.engine,
        processes=tuple(_from_cuda(process) for process in message.processes),
        members=tuple(message.members),
        warnings=tuple(message.warnings),
        timings_s=dict(message.timings_s),
    )


def to_restore_result(result: RestoreResult) -> cryo_pb2.RestoreResult:
    """Write what a restore brought back."""
    return cryo_pb2.RestoreResult(
        pid=result.pid,
        engine=result.engine,
        processes=[_to_cuda(process) for process in result.processes],
        members=result.members,
        warnings=_texts(result.warnings),
        timings_s=result.timings_s,
    )


def from_restore_result(message: cryo_pb2.RestoreResult) -> RestoreResult:
    """Read what a restore brought back."""
    return RestoreResult(
        pid=message.pid,
        engine=message.engine,
        processes=tuple(_from_cuda(process) for process in message.processes),
        members=tuple(message.members),
        warnings=tuple(message.warnings),
        timings_s=dict(message.timings_s),
    )


def _texts(texts: tuple[str, ...]) -> list[str]:
    return [printable(text, _TEXT_MAX) for text in texts]


def _to_cuda(process: CudaProcess) -> cryo_pb2.CudaProcess:
    return cryo_pb2.CudaProcess(
        pid=process.pid,
        name=printable(process.name, _TEXT_MAX),
        container=process.container,
        dropped=process.dropped,
    )


def _from_cuda(message: cryo_pb2.CudaProcess) -> CudaProcess:
    return CudaProcess(
        pid=message.pid,
        name=message.name,
        container=message.container,
        dropped=message.dropped,
    )


def to_image(view: ImageView) -> cryo_pb2.ImageInfo:
    """Write a line of the listing of images."""
    return cryo_pb2.ImageInfo(
        path=view.path,
        task=view.task,
        created_at=to_time(view.created_at),
        size_bytes=view.size_bytes,
        engine=view.engine,
        processes=view.processes,
        digest=view.digest,
    )


def from_image(message: cryo_pb2.ImageInfo) -> ImageView:
    """Read a line of the listing of images."""
    return ImageView(
        path=message.path,
        task=message.task,
        created_at=from_time(message.created_at),
        size_bytes=message.size_bytes,
        engine=message.engine,
        processes=message.processes,
        digest=message.digest,
    )
