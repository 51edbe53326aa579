"""containerd's Task service: the operations, and the calls that clients make of them.

Each operation is one handler, from message to plain values to message, and one function that makes
the client's call. v2 and v3 of the service have the same messages (test_ttrpc_task.py).
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from signal import SIGKILL
from typing import Any

from google.protobuf.empty_pb2 import Empty
from google.protobuf.message import Message
from msgspec.structs import replace

from shim import __version__, model
from shim.api.containerd.task.v3 import shim_pb2
from shim.errors import CryoError
from shim.model import CreateRequest, Exit, Mount, ProcessView, Stdio, TaskRef, check_id
from shim.service import convert, metrics, oci_json, task_messages
from shim.service.operation import ENDLESS, OWNER_S, Call, Incoming, Owner, Table
from shim.service.progress_log import log_progress

_log = logging.getLogger(__name__)

TASK = Table("containerd.task.v3.Task")


def _nothing(_: Message) -> None:
    return None


@TASK.add(shim_pb2.CreateTaskRequest, shim_pb2.CreateTaskResponse, Owner.NEW_TASK, OWNER_S)
async def Create(
    call: Incoming, request: shim_pb2.CreateTaskRequest
) -> shim_pb2.CreateTaskResponse:
    """Create a task."""
    pid = await call.service.core.create(task_messages.from_create(request, call.ref))
    return shim_pb2.CreateTaskResponse(pid=pid)


def create(
    ref: TaskRef,
    bundle: str,
    *,
    rootfs: Sequence[Mount] = (),
    stdio: Stdio = Stdio(),
    checkpoint: str = "",
    annotations: Mapping[str, str] | None = None,
) -> Call[int]:
    """Create a task from a bundle; with `checkpoint`, `start` restores that image.

    `annotations` are added to those of the bundle's config.json.

    Returns the pid of the sandbox on the host, 0 before a restore.
    """
    plain = CreateRequest(
        ref=ref,
        bundle=bundle,
        rootfs=tuple(rootfs),
        stdio=stdio,
        checkpoint=checkpoint,
        annotations=dict(annotations or {}),
    )
    return Create.call(task_messages.to_create(plain), lambda answer: answer.pid, ref.namespace)


@TASK.add(shim_pb2.StartRequest, shim_pb2.StartResponse, timeout_s=OWNER_S)
async def Start(call: Incoming, request: shim_pb2.StartRequest) -> shim_pb2.StartResponse:
    """Start the init process or an exec."""
    return shim_pb2.StartResponse(pid=await call.service.core.start(call.ref, request.exec_id))


def start(ref: TaskRef, exec_id: str = "") -> Call[int]:
    """Start the init process or an exec; return its pid."""
    request = shim_pb2.StartRequest(id=ref.id, exec_id=exec_id)
    return Start.call(request, lambda answer: answer.pid, ref.namespace)


@TASK.add(shim_pb2.StateRequest, shim_pb2.StateResponse)
async def State(call: Incoming, request: shim_pb2.StateRequest) -> shim_pb2.StateResponse:
    """Describe a process."""
    return task_messages.to_state(await call.service.core.state(call.ref, request.exec_id))


def state(ref: TaskRef, exec_id: str = "") -> Call[ProcessView]:
    """Describe the init process or an exec."""
    request = shim_pb2.StateRequest(id=ref.id, exec_id=exec_id)
    return State.call(request, task_messages.from_state, ref.namespace)


@TASK.add(shim_pb2.WaitRequest, shim_pb2.WaitResponse, timeout_s=ENDLESS)
async def Wait(call: Incoming, request: shim_pb2.WaitRequest) -> shim_pb2.WaitResponse:
    """Wait until a process exits, or the server stops."""
    exited = call.service.core.wait(call.ref, request.exec_id)
    return task_messages.to_wait(await call.service.waits.wait(exited))


def wait(ref: TaskRef, exec_id: str = "") -> Call[Exit]:
    """Wait until a process exits; return at once if it has already exited."""
    request = shim_pb2.WaitRequest(id=ref.id, exec_id=exec_id)
    return Wait.call(request, task_messages.from_wait, ref.namespace)


@TASK.add(shim_pb2.KillRequest, Empty, timeout_s=OWNER_S)
async def Kill(call: Incoming, request: shim_pb2.KillRequest) -> Empty:
    """Send a signal."""
    await call.service.core.kill(
        call.ref, request.signal, exec_id=request.exec_id, everyone=request.all
    )
    return Empty()


def kill(ref: TaskRef, signal: int, *, exec_id: str = "", everyone: bool = False) -> Call[None]:
    """Send a signal to one process, or to every process of the task."""
    request = shim_pb2.KillRequest(id=ref.id, exec_id=exec_id, signal=signal, all=everyone)
    call = Kill.call(request, _nothing, ref.namespace)
    # SIGKILL waits for no other operation; another signal resumes a parked task first.
    return replace(call, timeout_s=None) if signal == SIGKILL else call


@TASK.add(shim_pb2.ExecProcessRequest, Empty, timeout_s=OWNER_S)
async def Exec(call: Incoming, request: shim_pb2.ExecProcessRequest) -> Empty:
    """Add a process."""
    await call.service.core.exec(
        call.ref,
        check_id("exec id", request.exec_id),
        oci_json.unpack(request.spec, "process"),
        convert.from_streams(request),
    )
    return Empty()


def exec_(
    ref: TaskRef, exec_id: str, process: Mapping[str, Any], stdio: Stdio = Stdio()
) -> Call[None]:
    """Add a process (an OCI `process` object) to a running task; `start` runs it."""
    request = shim_pb2.ExecProcessRequest(
        id=ref.id,
        exec_id=exec_id,
        terminal=stdio.terminal,
        stdin=stdio.stdin,
        stdout=stdio.stdout,
        stderr=stdio.stderr,
        spec=oci_json.pack(oci_json.PROCESS_TYPE, process),
    )
    return Exec.call(request, _nothing, ref.namespace)


# containerd drops a shim whose Delete took longer than 5 s, and nothing else removes the task.
@TASK.add(shim_pb2.DeleteRequest, shim_pb2.DeleteResponse, timeout_s=OWNER_S, completes=True)
async def Delete(call: Incoming, request: shim_pb2.DeleteRequest) -> shim_pb2.DeleteResponse:
    """Delete a process that has exited."""
    return task_messages.to_delete(await call.service.core.delete(call.ref, request.exec_id))


def delete(ref: TaskRef, exec_id: str = "") -> Call[ProcessView]:
    """Delete a process that has exited; return its last state."""
    request = shim_pb2.DeleteRequest(id=ref.id, exec_id=exec_id)
    return Delete.call(
        request, lambda answer: task_messages.from_delete(answer, ref.id, exec_id), ref.namespace
    )


@TASK.add(shim_pb2.PidsRequest, shim_pb2.PidsResponse)
async def Pids(call: Incoming, request: shim_pb2.PidsRequest) -> shim_pb2.PidsResponse:
    """List the processes."""
    return task_messages.to_pids(await call.service.core.pids(call.ref))


def pids(ref: TaskRef) -> Call[list[int]]:
    """List the processes of a task, by their pids in the container."""
    return Pids.call(shim_pb2.PidsRequest(id=ref.id), _pids_in, ref.namespace)


def _pids_in(answer: shim_pb2.PidsResponse) -> list[int]:
    found = task_messages.from_pids(answer)
    return list(found.guest or found.host)


@TASK.add(shim_pb2.PauseRequest, Empty, timeout_s=OWNER_S)
async def Pause(call: Incoming, request: shim_pb2.PauseRequest) -> Empty:
    """Pause all processes."""
    await call.service.core.pause(call.ref)
    return Empty()


def pause(ref: TaskRef) -> Call[None]:
    """Pause all processes of a task."""
    return Pause.call(shim_pb2.PauseRequest(id=ref.id), _nothing, ref.namespace)


@TASK.add(shim_pb2.ResumeRequest, Empty, timeout_s=OWNER_S)
async def Resume(call: Incoming, request: shim_pb2.ResumeRequest) -> Empty:
    """Resume a paused task."""
    await call.service.core.resume(call.ref)
    return Empty()


def resume(ref: TaskRef) -> Call[None]:
    """Resume a paused task."""
    return Resume.call(shim_pb2.ResumeRequest(id=ref.id), _nothing, ref.namespace)


@TASK.add(shim_pb2.CheckpointTaskRequest, Empty, timeout_s=OWNER_S)
async def Checkpoint(call: Incoming, request: shim_pb2.CheckpointTaskRequest) -> Empty:
    """Checkpoint a task for containerd; progress is logged, as the call has no stream."""
    options = task_messages.from_task_checkpoint(request)
    await call.service.core.checkpoint(call.ref, options, log_progress)
    return Empty()


@TASK.add(shim_pb2.UpdateTaskRequest, Empty, timeout_s=OWNER_S)
async def Update(call: Incoming, request: shim_pb2.UpdateTaskRequest) -> Empty:
    """Set resource limits."""
    resources = oci_json.unpack(request.resources, "resources")
    await call.service.core.update(call.ref, resources)
    return Empty()


def update(ref: TaskRef, resources: Mapping[str, Any]) -> Call[None]:
    """Set resource limits (an OCI LinuxResources object)."""
    packed = oci_json.pack(oci_json.RESOURCES_TYPE, resources)
    request = shim_pb2.UpdateTaskRequest(id=ref.id, resources=packed)
    return Update.call(request, _nothing, ref.namespace)


@TASK.add(shim_pb2.StatsRequest, shim_pb2.StatsResponse)
async def Stats(call: Incoming, request: shim_pb2.StatsRequest) -> shim_pb2.StatsResponse:
    """Measure the task."""
    return shim_pb2.StatsResponse(stats=metrics.pack(await call.service.core.stats(call.ref)))


def stats(ref: TaskRef) -> Call[model.Stats]:
    """Measure the CPU, memory and process counts of a task."""
    request = shim_pb2.StatsRequest(id=ref.id)
    return Stats.call(request, lambda answer: metrics.unpack(answer.stats), ref.namespace)


@TASK.add(shim_pb2.CloseIORequest, Empty)
async def CloseIO(call: Incoming, request: shim_pb2.CloseIORequest) -> Empty:
    """Close the stdin of a process."""
    await call.service.core.close_io(call.ref, request.exec_id)
    return Empty()


def close_io(ref: TaskRef, exec_id: str = "") -> Call[None]:
    """Close the stdin of a process."""
    request = shim_pb2.CloseIORequest(id=ref.id, exec_id=exec_id, stdin=True)
    return CloseIO.call(request, _nothing, ref.namespace)


@TASK.add(shim_pb2.ResizePtyRequest, Empty)
async def ResizePty(call: Incoming, request: shim_pb2.ResizePtyRequest) -> Empty:
    """Set the size of a terminal."""
    await call.service.core.resize_pty(call.ref, request.width, request.height, request.exec_id)
    return Empty()


def resize_pty(ref: TaskRef, width: int, height: int, exec_id: str = "") -> Call[None]:
    """Set the size of the terminal of a process, in character cells."""
    request = shim_pb2.ResizePtyRequest(id=ref.id, exec_id=exec_id, width=width, height=height)
    return ResizePty.call(request, _nothing, ref.namespace)


@TASK.add(shim_pb2.ConnectRequest, shim_pb2.ConnectResponse, Owner.SERVER)
async def Connect(call: Incoming, request: shim_pb2.ConnectRequest) -> shim_pb2.ConnectResponse:
    """Return the pids of the server and of the task; containerd drops a task when this fails."""
    try:
        pid = (await call.service.core.state(call.ref)).pid
    except CryoError as error:
        _log.debug("connect %s: %s", request.id, error)
        pid = 0
    return shim_pb2.ConnectResponse(shim_pid=os.getpid(), task_pid=pid, version=__version__)


@TASK.add(shim_pb2.ShutdownRequest, Empty, Owner.SERVER)
async def Shutdown(call: Incoming, request: shim_pb2.ShutdownRequest) -> Empty:
    """Stop the server if it has no task; containerd sends this after every Delete."""
    call.service.shutdown(request)
    return Empty()
