"""What each method of the client sends, and how it reads the answer.

No I/O here, so the blocking and the async client share it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar
from uuid import uuid4

from google.protobuf.empty_pb2 import Empty
from google.protobuf.message import Message

from shim.api.containerd.task.v3 import shim_pb2
from shim.api.cryo.v1 import cryo_pb2
from shim.model import (
    CheckpointOptions,
    CheckpointResult,
    CreateRequest,
    Exit,
    ImageView,
    Pids,
    ProcessView,
    RestoreOptions,
    RestoreResult,
    Stats,
    Stdio,
    TaskRef,
    TaskView,
    Verify,
)
from shim.wire import convert, metrics

_Value = TypeVar("_Value")

# What changes a task is bounded by who owns it, by the settings there: a Start may be a whole
# restore, a Pause may park 80 GiB of GPU memory, a Kill or Delete brings a parked task back first,
# and each may wait for the one before it. This is only for an owner that hangs.
_OWNER_S = 3600.0
_SIGKILL = 9

_TASK = "/containerd.task.v3.Task/"
_CRYO = "/cryo.v1.Cryo/"


@dataclass(frozen=True, kw_only=True)
class Call(Generic[_Value]):
    """One unary call. `timeout_s` None means the client's usual one, infinity means none."""

    path: str
    request: Message
    response: type[Message]
    read: Callable[[Any], _Value]
    namespace: str = ""
    timeout_s: float | None = None


@dataclass(frozen=True, kw_only=True)
class Stream(Generic[_Value]):
    """One call that streams news and then its result. `token` names it for Cancel."""

    path: str
    request: Message
    response: type[Message]
    read: Callable[[Any], _Value]
    what: str
    token: str = ""


def _nothing(_: Message) -> None:
    return None


def create(request: CreateRequest) -> Call[int]:
    """Make a task."""
    return Call(
        path=_TASK + "Create",
        request=convert.to_create(request),
        response=shim_pb2.CreateTaskResponse,
        read=lambda answer: int(answer.pid),
        namespace=request.ref.namespace,
        timeout_s=_OWNER_S,
    )


def start(ref: TaskRef, exec_id: str) -> Call[int]:
    """Start a process."""
    return Call(
        path=_TASK + "Start",
        request=shim_pb2.StartRequest(id=ref.id, exec_id=exec_id),
        response=shim_pb2.StartResponse,
        read=lambda answer: int(answer.pid),
        namespace=ref.namespace,
        timeout_s=_OWNER_S,
    )


def state(ref: TaskRef, exec_id: str) -> Call[ProcessView]:
    """Ask how a process is."""
    return Call(
        path=_TASK + "State",
        request=shim_pb2.StateRequest(id=ref.id, exec_id=exec_id),
        response=shim_pb2.StateResponse,
        read=convert.from_state,
        namespace=ref.namespace,
    )


def wait(ref: TaskRef, exec_id: str) -> Call[Exit]:
    """Wait for the end of a process."""
    return Call(
        path=_TASK + "Wait",
        request=shim_pb2.WaitRequest(id=ref.id, exec_id=exec_id),
        response=shim_pb2.WaitResponse,
        read=convert.from_wait,
        namespace=ref.namespace,
        timeout_s=float("inf"),
    )


def kill(ref: TaskRef, signal: int, exec_id: str, *, everyone: bool) -> Call[None]:
    """Send a signal. SIGKILL waits for nothing; another one resumes a parked task before."""
    request = shim_pb2.KillRequest(id=ref.id, exec_id=exec_id, signal=signal, all=everyone)
    return _task("Kill", ref, request, None if signal == _SIGKILL else _OWNER_S)


def exec_(ref: TaskRef, exec_id: str, process: Mapping[str, Any], stdio: Stdio) -> Call[None]:
    """Add a process."""
    return _task(
        "Exec",
        ref,
        shim_pb2.ExecProcessRequest(
            id=ref.id,
            exec_id=exec_id,
            terminal=stdio.terminal,
            stdin=stdio.stdin,
            stdout=stdio.stdout,
            stderr=stdio.stderr,
            spec=convert.to_json(convert.PROCESS_TYPE, process),
        ),
        _OWNER_S,
    )


def delete(ref: TaskRef, exec_id: str) -> Call[ProcessView]:
    """Forget a process."""
    return Call(
        path=_TASK + "Delete",
        request=shim_pb2.DeleteRequest(id=ref.id, exec_id=exec_id),
        response=shim_pb2.DeleteResponse,
        read=lambda answer: convert.from_delete(answer, ref.id, exec_id),
        namespace=ref.namespace,
        timeout_s=_OWNER_S,
    )


def pids(ref: TaskRef) -> Call[Pids]:
    """List a task's processes."""
    return Call(
        path=_TASK + "Pids",
        request=shim_pb2.PidsRequest(id=ref.id),
        response=shim_pb2.PidsResponse,
        read=convert.from_pids,
        namespace=ref.namespace,
    )


def pause(ref: TaskRef) -> Call[None]:
    """Stop a task's processes where they are."""
    return _task("Pause", ref, shim_pb2.PauseRequest(id=ref.id), _OWNER_S)


def resume(ref: TaskRef) -> Call[None]:
    """Let a paused task go on."""
    return _task("Resume", ref, shim_pb2.ResumeRequest(id=ref.id), _OWNER_S)


def update(ref: TaskRef, resources: Mapping[str, Any]) -> Call[None]:
    """Apply OCI LinuxResources."""
    packed = convert.to_json(convert.RESOURCES_TYPE, resources)
    request = shim_pb2.UpdateTaskRequest(id=ref.id, resources=packed)
    return _task("Update", ref, request, _OWNER_S)


def stats(ref: TaskRef) -> Call[Stats]:
    """Measure a task."""
    return Call(
        path=_TASK + "Stats",
        request=shim_pb2.StatsRequest(id=ref.id),
        response=shim_pb2.StatsResponse,
        read=lambda answer: metrics.unpack(answer.stats),
        namespace=ref.namespace,
    )


def close_io(ref: TaskRef, exec_id: str) -> Call[None]:
    """Close a process's stdin."""
    request = shim_pb2.CloseIORequest(id=ref.id, exec_id=exec_id, stdin=True)
    return _task("CloseIO", ref, request)


def resize_pty(ref: TaskRef, width: int, height: int, exec_id: str) -> Call[None]:
    """Tell a terminal its size."""
    return _task(
        "ResizePty",
        ref,
        shim_pb2.ResizePtyRequest(id=ref.id, exec_id=exec_id, width=width, height=height),
    )


def list_(namespace: str) -> Call[list[TaskView]]:
    """List a namespace's tasks."""
    return Call(
        path=_CRYO + "ListTasks",
        request=cryo_pb2.ListTasksRequest(namespace=namespace),
        response=cryo_pb2.ListTasksResponse,
        read=lambda answer: [convert.from_task(task) for task in answer.tasks],
    )


def checkpoint(ref: TaskRef, options: CheckpointOptions) -> Stream[CheckpointResult]:
    """Save a task."""
    token = uuid4().hex
    return Stream(
        path=_CRYO + "Checkpoint",
        request=convert.to_checkpoint(ref, options, token),
        response=cryo_pb2.CheckpointUpdate,
        read=lambda update: convert.from_checkpoint_result(update.result),
        what=f"checkpoint of task {ref}",
        token=token,
    )


def restore(ref: TaskRef, options: RestoreOptions) -> Stream[RestoreResult]:
    """Bring an image back."""
    token = uuid4().hex
    return Stream(
        path=_CRYO + "Restore",
        request=convert.to_restore(ref, options, token),
        response=cryo_pb2.RestoreUpdate,
        read=lambda update: convert.from_restore_result(update.result),
        what=f"restore of task {ref}",
        token=token,
    )


def verify(image_path: str, mode: Verify, *, untrusted_folder: bool) -> Stream[dict[str, Any]]:
    """Check an image."""
    return Stream(
        path=_CRYO + "VerifyImage",
        request=cryo_pb2.VerifyImageRequest(
            image_path=image_path,
            mode=convert.to_verify(mode),
            untrusted_folder=untrusted_folder,
        ),
        response=cryo_pb2.VerifyImageUpdate,
        read=lambda update: _object(update.manifest_json),
        what=f"verification of {image_path}",
    )


def cancel(token: str, timeout_s: float) -> Call[cryo_pb2.CancelResponse]:
    """Roll an operation back."""
    return Call(
        path=_CRYO + "Cancel",
        request=cryo_pb2.CancelRequest(operation=token),
        response=cryo_pb2.CancelResponse,
        read=lambda answer: answer,
        timeout_s=timeout_s,
    )


def images() -> Call[list[ImageView]]:
    """List the images."""
    return Call(
        path=_CRYO + "ListImages",
        request=cryo_pb2.ListImagesRequest(),
        response=cryo_pb2.ListImagesResponse,
        read=lambda answer: [convert.from_image(image) for image in answer.images],
    )


def inspect(image_path: str) -> Call[dict[str, Any]]:
    """Ask what an image says of itself."""
    return Call(
        path=_CRYO + "InspectImage",
        request=cryo_pb2.InspectImageRequest(image_path=image_path),
        response=cryo_pb2.InspectImageResponse,
        read=lambda answer: _object(answer.manifest_json),
    )


def remove(image_path: str) -> Call[None]:
    """Delete an image."""
    return Call(
        path=_CRYO + "RemoveImage",
        request=cryo_pb2.RemoveImageRequest(image_path=image_path),
        response=cryo_pb2.RemoveImageResponse,
        read=_nothing,
        timeout_s=_OWNER_S,
    )


def info() -> Call[dict[str, str]]:
    """Ask what the host is."""
    return Call(
        path=_CRYO + "Info",
        request=cryo_pb2.InfoRequest(),
        response=cryo_pb2.InfoResponse,
        read=lambda answer: dict(answer.facts),
    )


def _task(
    method: str, ref: TaskRef, request: Message, timeout_s: float | None = None
) -> Call[None]:
    """Make a call of the Task service that answers nothing."""
    return Call(
        path=_TASK + method,
        request=request,
        response=Empty,
        read=_nothing,
        namespace=ref.namespace,
        timeout_s=timeout_s,
    )


def _object(text: str) -> dict[str, Any]:
    value: dict[str, Any] = json.loads(text)
    return value
