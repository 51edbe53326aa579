"""Converts the messages of cryo.v1 to plain values and back.

`to_*` makes a message, `from_*` makes a value. Servers and clients use both.
"""

from __future__ import annotations

from shim.api.cryo.v1 import cryo_pb2
from shim.host.text import printable
from shim.model import (
    CheckpointOptions,
    CheckpointResult,
    Connections,
    CudaMode,
    CudaProcess,
    Direct,
    EngineName,
    ExecProcesses,
    Exit,
    ImageView,
    MemberOptions,
    Phase,
    Progress,
    RestoreOptions,
    RestoreResult,
    Stage,
    Stdio,
    TaskRef,
    TaskView,
    Verify,
)
from shim.service.convert import from_duration, from_streams, from_time, named, to_duration, to_time
from shim.state import TaskState

_TEXT_MAX = 4096

_ENGINES = {name: cryo_pb2.Engine.Value(f"ENGINE_{name.name}") for name in EngineName}
_MODES = {name: cryo_pb2.CudaMode.Value(f"CUDA_MODE_{name.name}") for name in CudaMode}
_CONNECTIONS = {
    name: cryo_pb2.Connections.Value(f"CONNECTIONS_{name.name}") for name in Connections
}
_EXEC_PROCESSES = {
    name: cryo_pb2.ExecProcesses.Value(f"EXEC_PROCESSES_{name.name}") for name in ExecProcesses
}
_STAGES = {name: cryo_pb2.Stage.Value(f"STAGE_{name.name}") for name in Stage}
_VERIFY = {name: cryo_pb2.Verify.Value(f"VERIFY_{name.name}") for name in Verify}
_DIRECT = {name: cryo_pb2.Direct.Value(f"DIRECT_{name.name}") for name in Direct}
_PHASES = {name: cryo_pb2.Phase.Value(f"PHASE_{name.name}") for name in Phase}
_STATES = {name: cryo_pb2.TaskState.Value(f"TASK_STATE_{name.name}") for name in TaskState}


def to_task(view: TaskView) -> cryo_pb2.TaskInfo:
    """Encode a task of a listing."""
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
    """Decode a task of a listing."""
    ended = message.exit
    return TaskView(
        namespace=message.namespace,
        id=message.id,
        bundle=message.bundle,
        pid=message.pid,
        state=named(_STATES, message.state, "task state"),
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
    """Encode one progress update."""
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
    """Decode one progress update."""
    return Progress(
        phase=named(_PHASES, message.phase, "phase"),
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
    """Encode a request for a checkpoint."""
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
        stage=_STAGES[options.stage] if options.stage else None,
    )


def from_checkpoint(message: cryo_pb2.CheckpointRequest) -> CheckpointOptions:
    """Decode a request for a checkpoint."""
    return CheckpointOptions(
        image_path=message.image_path,
        exit=message.exit,
        engine=named(_ENGINES, message.engine, "engine") if message.HasField("engine") else None,
        cuda=named(_MODES, message.cuda, "CUDA mode") if message.HasField("cuda") else None,
        connections=named(_CONNECTIONS, message.connections, "connections policy")
        if message.HasField("connections")
        else None,
        exec_processes=named(_EXEC_PROCESSES, message.exec_processes, "exec processes policy")
        if message.HasField("exec_processes")
        else None,
        timeout_s=from_duration(message.timeout),
        seal=not message.no_seal,
        compress=message.compress,
        direct=message.direct,
        stage=named(_STAGES, message.stage, "stage") if message.HasField("stage") else None,
    )


def to_restore(
    ref: TaskRef, options: RestoreOptions, operation: str = ""
) -> cryo_pb2.RestoreRequest:
    """Encode a request for a restore."""
    return cryo_pb2.RestoreRequest(
        namespace=ref.namespace,
        id=ref.id,
        image_path=options.image_path,
        bundle=options.bundle,
        stdio=_to_streams(options.stdio),
        verify=_VERIFY[options.verify],
        background=options.background,
        direct=options.direct is Direct.ON,
        direct_choice=_DIRECT[options.direct],
        timeout=to_duration(options.timeout_s),
        device_map=options.device_map,
        operation=operation,
        members=[_to_member(member) for member in options.members],
        image_hooks=options.image_hooks,
        untrusted_folder=options.untrusted_folder,
        trust_spec=options.trust_spec,
        digest=options.digest,
        hostname=options.hostname,
        netns=options.netns,
        env=options.env,
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
    """Decode a request for a restore."""
    return RestoreOptions(
        image_path=message.image_path,
        bundle=message.bundle,
        stdio=from_streams(message.stdio),
        verify=from_verify(message.verify),
        background=message.background,
        direct=_direct(message),
        timeout_s=from_duration(message.timeout),
        device_map=dict(message.device_map),
        members=tuple(_from_member(member) for member in message.members),
        image_hooks=message.image_hooks,
        untrusted_folder=message.untrusted_folder,
        trust_spec=message.trust_spec,
        digest=message.digest,
        hostname=message.hostname,
        netns=message.netns,
        env=tuple(message.env),
    )


def to_verify(mode: Verify) -> cryo_pb2.Verify.ValueType:
    """Encode a verify mode."""
    return _VERIFY[mode]


def from_verify(number: cryo_pb2.Verify.ValueType) -> Verify:
    """Decode a verify mode."""
    return named(_VERIFY, number, "verify mode")


def to_checkpoint_result(result: CheckpointResult) -> cryo_pb2.CheckpointResult:
    """Encode the result of a checkpoint."""
    return cryo_pb2.CheckpointResult(
        image_path=result.image_path,
        size_bytes=result.size_bytes,
        digest=result.digest,
        engine=result.engine,
        processes=[_to_cuda(process) for process in result.processes],
        members=result.members,
        warnings=_texts(result.warnings),
        timings_s=result.timings_s,
        stage=result.stage,
        stage_reason=printable(result.stage_reason, _TEXT_MAX),
        frozen=to_duration(result.frozen_s),
    )


def from_checkpoint_result(message: cryo_pb2.CheckpointResult) -> CheckpointResult:
    """Decode the result of a checkpoint."""
    return CheckpointResult(
        image_path=message.image_path,
        size_bytes=message.size_bytes,
        digest=message.digest,
        engine=message.engine,
        processes=tuple(_from_cuda(process) for process in message.processes),
        members=tuple(message.members),
        warnings=tuple(message.warnings),
        timings_s=dict(message.timings_s),
        stage=message.stage,
        stage_reason=message.stage_reason,
        frozen_s=from_duration(message.frozen),
    )


def to_restore_result(result: RestoreResult) -> cryo_pb2.RestoreResult:
    """Encode the result of a restore."""
    return cryo_pb2.RestoreResult(
        pid=result.pid,
        engine=result.engine,
        processes=[_to_cuda(process) for process in result.processes],
        members=result.members,
        warnings=_texts(result.warnings),
        timings_s=result.timings_s,
        direct=result.direct,
        direct_reason=printable(result.direct_reason, _TEXT_MAX),
    )


def from_restore_result(message: cryo_pb2.RestoreResult) -> RestoreResult:
    """Decode the result of a restore."""
    return RestoreResult(
        pid=message.pid,
        engine=message.engine,
        processes=tuple(_from_cuda(process) for process in message.processes),
        members=tuple(message.members),
        warnings=tuple(message.warnings),
        timings_s=dict(message.timings_s),
        direct=message.direct,
        direct_reason=message.direct_reason,
    )


def _direct(message: cryo_pb2.RestoreRequest) -> Direct:
    """Decode the choice, or that of a client that had only `direct`."""
    chosen = named(_DIRECT, message.direct_choice, "choice of direct reads")
    return Direct.ON if message.direct else chosen


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
    """Encode an image of a listing."""
    return cryo_pb2.ImageInfo(
        path=view.path,
        task=view.task,
        created_at=to_time(view.created_at),
        size_bytes=view.size_bytes,
        engine=view.engine,
        processes=view.processes,
        digest=view.digest,
        names=[
            cryo_pb2.ImageName(namespace=namespace, name=printable(name, _TEXT_MAX))
            for namespace, names in view.names.items()
            for name in names
        ],
        pinned=view.pinned,
        expires_at=None if view.expires_at is None else to_time(view.expires_at),
        last_used_at=None if view.last_used_at is None else to_time(view.last_used_at),
        source=view.source,
    )


def from_image(message: cryo_pb2.ImageInfo) -> ImageView:
    """Decode an image of a listing."""
    names: dict[str, tuple[str, ...]] = {}
    for one in message.names:
        names[one.namespace] = (*names.get(one.namespace, ()), one.name)
    return ImageView(
        path=message.path,
        task=message.task,
        created_at=from_time(message.created_at),
        size_bytes=message.size_bytes,
        engine=message.engine,
        processes=message.processes,
        digest=message.digest,
        names=names,
        pinned=message.pinned,
        expires_at=from_time(message.expires_at) if message.HasField("expires_at") else None,
        last_used_at=from_time(message.last_used_at) if message.HasField("last_used_at") else None,
        source=message.source if message.HasField("source") else None,
    )
