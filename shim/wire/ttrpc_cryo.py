"""The part of our own service that a shim offers over ttrpc, for the sidecar that forwards to it.

The messages are those of the gRPC service. ttrpc here is unary, so a checkpoint answers once, with
what the stream would have ended with; a caller that hangs up cancels it.
"""

from __future__ import annotations

import logging

from google.protobuf.message import Message

from shim.api.cryo.v1 import cryo_pb2
from shim.model import Progress, TaskRef
from shim.task.port import TaskService
from shim.wire import convert
from shim.wire.ttrpc import Call, Method, Services

NAME = "cryo.v1.Cryo"
_log = logging.getLogger(__name__)


def _log_progress(progress: Progress) -> None:
    level = logging.WARNING if progress.warning else logging.DEBUG
    _log.log(level, "%s %s", progress.phase, progress.message)


def services(core: TaskService) -> Services:
    """Return what a shim serves beside containerd's Task."""

    async def checkpoint(request: cryo_pb2.CheckpointRequest, _call: Call) -> Message:
        ref = TaskRef(namespace=request.namespace, id=request.id)
        options = convert.from_checkpoint(request)
        result = await core.checkpoint(ref, options, _log_progress)
        return cryo_pb2.CheckpointUpdate(result=convert.to_checkpoint_result(result))

    async def list_tasks(request: cryo_pb2.ListTasksRequest, _call: Call) -> Message:
        views = await core.list(request.namespace)
        return cryo_pb2.ListTasksResponse(tasks=[convert.to_task(view) for view in views])

    return {
        NAME: {
            "Checkpoint": Method(cryo_pb2.CheckpointRequest, checkpoint),
            "ListTasks": Method(cryo_pb2.ListTasksRequest, list_tasks),
        }
    }
