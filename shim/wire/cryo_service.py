"""cryo.v1 over the core: streams of news, and a rollback whenever a call ends early."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator
from functools import partial
from typing import Any, TypeVar

import msgspec

from shim.api.cryo.v1 import cryo_pb2, cryo_pb2_grpc
from shim.errors import Cancelled, CryoError
from shim.model import CheckpointOptions, RestoreOptions, TaskRef, check_id
from shim.task.port import TaskService
from shim.wire import convert, status
from shim.wire.edge import Context
from shim.wire.operation import Operation, Operations
from shim.wire.task_methods import DEFAULT_NAMESPACE

_Options = TypeVar("_Options", CheckpointOptions, RestoreOptions)

# The core's own deadline comes this much before the call's, so that the caller still hears
# which process held it up; at most a tenth of a short one.
_MARGIN_S = 1.0
_OUTCOME = cryo_pb2.CancelResponse


class CryoServicer(cryo_pb2_grpc.CryoServicer):
    """Checkpoints, restores and images."""

    def __init__(self, core: TaskService) -> None:
        self._core = core
        self._operations = Operations()

    async def ListTasks(
        self, request: cryo_pb2.ListTasksRequest, context: Context
    ) -> cryo_pb2.ListTasksResponse:
        """List a namespace's tasks."""
        namespace = check_id("namespace", request.namespace or DEFAULT_NAMESPACE)
        views = await self._core.list(namespace)
        return cryo_pb2.ListTasksResponse(tasks=[convert.to_task(view) for view in views])

    async def Checkpoint(
        self, request: cryo_pb2.CheckpointRequest, context: Context
    ) -> AsyncGenerator[cryo_pb2.CheckpointUpdate, None]:
        """Save a task, with news."""
        ref = _ref(request.namespace, request.id)
        options = _bounded(convert.from_checkpoint(request), context)
        begin = partial(self._core.checkpoint, ref, options)
        async with self._operations.hold(request.operation, begin) as operation:
            async for progress in operation.news():
                yield cryo_pb2.CheckpointUpdate(progress=convert.to_progress(progress))
            result = convert.to_checkpoint_result(await operation.result())
            yield cryo_pb2.CheckpointUpdate(result=result)

    async def Restore(
        self, request: cryo_pb2.RestoreRequest, context: Context
    ) -> AsyncGenerator[cryo_pb2.RestoreUpdate, None]:
        """Bring an image back, with news."""
        ref = _ref(request.namespace, request.id)
        options = _bounded(convert.from_restore(request), context)
        begin = partial(self._core.restore, ref, options)
        async with self._operations.hold(request.operation, begin) as operation:
            async for progress in operation.news():
                yield cryo_pb2.RestoreUpdate(progress=convert.to_progress(progress))
            result = convert.to_restore_result(await operation.result())
            yield cryo_pb2.RestoreUpdate(result=result)

    async def Cancel(
        self, request: cryo_pb2.CancelRequest, context: Context
    ) -> cryo_pb2.CancelResponse:
        """Roll an operation back and tell how it ended."""
        operation = self._operations.find(request.operation)
        if operation is None:
            return _OUTCOME(outcome=_OUTCOME.OUTCOME_UNKNOWN)
        operation.cancel()
        return await _outcome(operation)

    async def ListImages(
        self, request: cryo_pb2.ListImagesRequest, context: Context
    ) -> cryo_pb2.ListImagesResponse:
        """List the images."""
        views = await self._core.images()
        return cryo_pb2.ListImagesResponse(images=[convert.to_image(view) for view in views])

    async def InspectImage(
        self, request: cryo_pb2.InspectImageRequest, context: Context
    ) -> cryo_pb2.InspectImageResponse:
        """Tell what an image says of itself."""
        manifest = await self._core.inspect(request.image_path)
        return cryo_pb2.InspectImageResponse(manifest_json=json.dumps(manifest))

    async def VerifyImage(
        self, request: cryo_pb2.VerifyImageRequest, context: Context
    ) -> AsyncGenerator[cryo_pb2.VerifyImageUpdate, None]:
        """Check an image, with news."""
        mode = convert.from_verify(request.mode)
        begin = partial(
            self._core.verify,
            request.image_path,
            mode,
            untrusted_folder=request.untrusted_folder,
        )
        async with self._operations.hold("", begin) as operation:
            async for progress in operation.news():
                yield cryo_pb2.VerifyImageUpdate(progress=convert.to_progress(progress))
            manifest = json.dumps(await operation.result())
            yield cryo_pb2.VerifyImageUpdate(manifest_json=manifest)

    async def RemoveImage(
        self, request: cryo_pb2.RemoveImageRequest, context: Context
    ) -> cryo_pb2.RemoveImageResponse:
        """Delete an image."""
        await self._core.remove(request.image_path)
        return cryo_pb2.RemoveImageResponse()

    async def Info(self, request: cryo_pb2.InfoRequest, context: Context) -> cryo_pb2.InfoResponse:
        """Describe the host."""
        return cryo_pb2.InfoResponse(facts=await self._core.info())


def _ref(namespace: str, id: str) -> TaskRef:
    return TaskRef(namespace=namespace or DEFAULT_NAMESPACE, id=id)


def _bounded(options: _Options, context: Context) -> _Options:
    """Shorten the timeout to what the call's own deadline leaves."""
    remaining = context.time_remaining()
    if remaining is None:
        return options
    left_s = max(remaining - min(_MARGIN_S, remaining / 10), 0.001)
    timeout_s = min(options.timeout_s or left_s, left_s)
    return msgspec.structs.replace(options, timeout_s=timeout_s)


async def _outcome(operation: Operation[Any]) -> cryo_pb2.CancelResponse:
    try:
        await operation.result()
    except Cancelled:
        return _OUTCOME(outcome=_OUTCOME.OUTCOME_CANCELLED)
    except CryoError as error:
        return _OUTCOME(outcome=_OUTCOME.OUTCOME_FAILED, message=status.details_of(error))
    return _OUTCOME(outcome=_OUTCOME.OUTCOME_COMPLETED)
