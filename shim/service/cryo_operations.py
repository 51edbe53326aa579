"""cryo.v1 on tasks: checkpoints and restores, and the calls that clients make of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from uuid import uuid4

from shim.api.cryo.v1 import cryo_pb2
from shim.errors import Cancelled, CryoError
from shim.model import (
    CheckpointOptions,
    CheckpointResult,
    ProcessList,
    RestoreOptions,
    RestoreResult,
    TaskRef,
    TaskView,
    check_id,
)
from shim.service import cryo_messages, process_messages, status
from shim.service.cryo_table import CRYO
from shim.service.operation import ENDLESS, Call, Incoming, Owner, Stream

if TYPE_CHECKING:
    from shim.service.running import RunningOperation

_Cancelled = cryo_pb2.CancelResponse


@CRYO.add(cryo_pb2.ListTasksRequest, cryo_pb2.ListTasksResponse, Owner.SERVER)
async def ListTasks(
    call: Incoming, request: cryo_pb2.ListTasksRequest
) -> cryo_pb2.ListTasksResponse:
    """List the tasks of a namespace, whichever process owns them."""
    views = await call.service.list_tasks(check_id("namespace", call.namespace))
    return cryo_pb2.ListTasksResponse(tasks=[cryo_messages.to_task(view) for view in views])


def list_(namespace: str = "") -> Call[list[TaskView]]:
    """List the tasks of a namespace, by id; the default is the client's namespace."""
    return ListTasks.call(
        cryo_pb2.ListTasksRequest(namespace=namespace),
        lambda answer: [cryo_messages.from_task(task) for task in answer.tasks],
    )


@CRYO.add(cryo_pb2.ListNamespacesRequest, cryo_pb2.ListNamespacesResponse, Owner.SERVER)
async def ListNamespaces(
    call: Incoming, request: cryo_pb2.ListNamespacesRequest
) -> cryo_pb2.ListNamespacesResponse:
    """List the namespaces that have tasks, whichever process owns these."""
    del request
    return cryo_pb2.ListNamespacesResponse(namespaces=await call.service.namespaces())


def namespaces() -> Call[list[str]]:
    """List the namespaces that have tasks."""
    return ListNamespaces.call(
        cryo_pb2.ListNamespacesRequest(), lambda answer: list(answer.namespaces)
    )


@CRYO.add(cryo_pb2.ListProcessesRequest, cryo_pb2.ListProcessesResponse, in_shims=True)
async def ListProcesses(
    call: Incoming, request: cryo_pb2.ListProcessesRequest
) -> cryo_pb2.ListProcessesResponse:
    """List the processes of a task."""
    del request
    return process_messages.to_list(await call.service.core.processes(call.ref))


def processes(ref: TaskRef) -> Call[ProcessList]:
    """List the processes of a task: what runs, as which user, and with which GPU state.

    The CUDA states of a running task are asked for in the container, which takes a tenth of a
    second or more.
    """
    return ListProcesses.call(
        cryo_pb2.ListProcessesRequest(namespace=ref.namespace, id=ref.id),
        process_messages.from_list,
    )


@CRYO.add(
    cryo_pb2.CheckpointRequest,
    cryo_pb2.CheckpointUpdate,
    timeout_s=ENDLESS,
    streams=True,
    in_shims=True,
)
async def Checkpoint(
    call: Incoming, request: cryo_pb2.CheckpointRequest
) -> cryo_pb2.CheckpointUpdate:
    """Save a task to an image."""
    options = cryo_messages.from_checkpoint(request)
    result = await call.service.core.checkpoint(call.ref, options, call.report)
    return cryo_pb2.CheckpointUpdate(result=cryo_messages.to_checkpoint_result(result))


def checkpoint(
    ref: TaskRef, options: CheckpointOptions = CheckpointOptions()
) -> Stream[CheckpointResult]:
    """Freeze a task, save it to an image, and resume or stop it. All or nothing.

    If interrupted (Ctrl-C, an error in `on_progress`), it rolls back before it returns.
    """
    token = uuid4().hex
    return Checkpoint.stream(
        cryo_messages.to_checkpoint(ref, options, token),
        lambda update: cryo_messages.from_checkpoint_result(update.result),
        f"checkpoint of task {ref}",
        token,
    )


@CRYO.add(cryo_pb2.RestoreRequest, cryo_pb2.RestoreUpdate, Owner.NEW_TASK, ENDLESS, streams=True)
async def Restore(call: Incoming, request: cryo_pb2.RestoreRequest) -> cryo_pb2.RestoreUpdate:
    """Restore an image as a new running task."""
    options = cryo_messages.from_restore(request)
    result = await call.service.core.restore(call.ref, options, call.report)
    return cryo_pb2.RestoreUpdate(result=cryo_messages.to_restore_result(result))


def restore(ref: TaskRef, options: RestoreOptions) -> Stream[RestoreResult]:
    """Restore an image as a new running task. All or nothing.

    If interrupted (Ctrl-C, an error in `on_progress`), it rolls back before it returns.
    """
    token = uuid4().hex
    return Restore.stream(
        cryo_messages.to_restore(ref, options, token),
        lambda update: cryo_messages.from_restore_result(update.result),
        f"restore of task {ref}",
        token,
    )


@CRYO.add(cryo_pb2.CancelRequest, cryo_pb2.CancelResponse, Owner.SERVER, in_shims=True)
async def Cancel(call: Incoming, request: cryo_pb2.CancelRequest) -> cryo_pb2.CancelResponse:
    """Cancel a checkpoint or restore by its token; return how it ended, once it has rolled back."""
    operation = call.service.running.find(request.operation)
    if operation is None:
        return _Cancelled(outcome=_Cancelled.OUTCOME_UNKNOWN)
    operation.cancel()
    return await _outcome(operation)


async def _outcome(operation: RunningOperation[Any]) -> cryo_pb2.CancelResponse:
    try:
        await operation.result()
    except Cancelled:
        return _Cancelled(outcome=_Cancelled.OUTCOME_CANCELLED)
    except CryoError as error:
        return _Cancelled(outcome=_Cancelled.OUTCOME_FAILED, message=status.details_of(error))
    return _Cancelled(outcome=_Cancelled.OUTCOME_COMPLETED)


@CRYO.add(
    cryo_pb2.SaveNameRequest,
    cryo_pb2.CheckpointUpdate,
    timeout_s=ENDLESS,
    streams=True,
    in_shims=True,
)
async def SaveName(call: Incoming, request: cryo_pb2.SaveNameRequest) -> cryo_pb2.CheckpointUpdate:
    """Save a task under a name."""
    result = await call.service.core.warm.save(call.ref, request.name, call.report)
    return cryo_pb2.CheckpointUpdate(result=cryo_messages.to_checkpoint_result(result))


def save_name(ref: TaskRef, name: str) -> Stream[CheckpointResult]:
    """Save a task under a name, for restores of containers like it; it keeps running.

    If interrupted (Ctrl-C, an error in `on_progress`), it rolls back before it returns.
    """
    token = uuid4().hex
    return SaveName.stream(
        cryo_pb2.SaveNameRequest(namespace=ref.namespace, id=ref.id, name=name, operation=token),
        lambda update: cryo_messages.from_checkpoint_result(update.result),
        f"save of task {ref}",
        token,
    )


@CRYO.add(cryo_pb2.InfoRequest, cryo_pb2.InfoResponse, Owner.SERVER)
async def Info(call: Incoming, request: cryo_pb2.InfoRequest) -> cryo_pb2.InfoResponse:
    """Describe the host."""
    return cryo_pb2.InfoResponse(facts=await call.service.core.host_info.info())


def info() -> Call[dict[str, str]]:
    """Describe the host: runsc, engines, driver, tool and versions."""
    return Info.call(cryo_pb2.InfoRequest(), lambda answer: dict(answer.facts))
