"""The part of our own service that a shim offers over ttrpc, for the sidecar that forwards to it.

The messages are those of the gRPC service. ttrpc here is unary, so a checkpoint answers once, with
what the stream would have ended with. A caller that hangs up cancels it; one that wants to hear how
it ended cancels it by its token.
"""

from __future__ import annotations

import logging
from functools import partial

from google.protobuf.message import Message

from shim.api.cryo.v1 import cryo_pb2
from shim.model import Progress, TaskRef
from shim.task.port import TaskService
from shim.wire import convert
from shim.wire.operation import Operations
from shim.wire.ttrpc import Call, Method, Services

NAME = "cryo.v1.Cryo"
_log = logging.getLogger(__name__)


def _log_progress(progress: Progress) -> None:
    level = logging.WARNING if progress.warning else logging.DEBUG
    _log.log(level, "%s %s", progress.phase, progress.message)


def services(core: TaskService) -> Services:
    """Return what a shim serves beside containerd's Task."""
    operations = Operations()

    async def checkpoint(request: cryo_pb2.CheckpointRequest, _call: Call) -> Message:
        ref = TaskRef(namespace=request.namespace, id=request.id)
        begin = partial(core.checkpoint, ref, convert.from_checkpoint(request))
        async with operations.hold(request.operation, begin) as operation:
            async for progress in operation.news():
                _log_progress(progress)
            result = await operation.result()
        return cryo_pb2.CheckpointUpdate(result=convert.to_checkpoint_result(result))

    async def cancel(request: cryo_pb2.CancelRequest, _call: Call) -> Message:
        """Begin the rollback; how the operation ended is the answer of its own call."""
        if (operation := operations.find(request.operation)) is not None:
            operation.cancel()
        return cryo_pb2.CancelResponse()

    async def list_tasks(request: cryo_pb2.ListTasksRequest, _call: Call) -> Message:
        views = await core.list(request.namespace)
        return cryo_pb2.ListTasksResponse(tasks=[convert.to_task(view) for view in views])

    return {
        NAME: {
            "Checkpoint": Method(cryo_pb2.CheckpointRequest, checkpoint),
            "Cancel": Method(cryo_pb2.CancelRequest, cancel),
            "ListTasks": Method(cryo_pb2.ListTasksRequest, list_tasks),
        }
    }
