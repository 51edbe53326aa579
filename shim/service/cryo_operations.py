"""cryo.v1: checkpoints, restores and images, and the calls that clients make of them."""

from __future__ import annotations

import json
from typing import Any
from uuid import uuid4

from shim.api.cryo.v1 import cryo_pb2
from shim.errors import Cancelled, CryoError
from shim.image.name_view import NameView
from shim.model import (
    CheckpointOptions,
    CheckpointResult,
    ImageView,
    RestoreOptions,
    RestoreResult,
    TaskRef,
    TaskView,
    Verify,
    check_id,
)
from shim.service import cryo_messages, name_messages, status
from shim.service.operation import ENDLESS, OWNER_S, Call, Incoming, Owner, Stream, Table
from shim.service.running import RunningOperation

CRYO = Table("cryo.v1.Cryo")
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


@CRYO.add(cryo_pb2.ListImagesRequest, cryo_pb2.ListImagesResponse, Owner.SERVER)
async def ListImages(
    call: Incoming, request: cryo_pb2.ListImagesRequest
) -> cryo_pb2.ListImagesResponse:
    """List the images."""
    views = await call.service.core.images.list()
    return cryo_pb2.ListImagesResponse(images=[cryo_messages.to_image(view) for view in views])


def images() -> Call[list[ImageView]]:
    """List the images below the sidecar's image directory, newest first."""
    return ListImages.call(
        cryo_pb2.ListImagesRequest(),
        lambda answer: [cryo_messages.from_image(image) for image in answer.images],
    )


@CRYO.add(cryo_pb2.InspectImageRequest, cryo_pb2.InspectImageResponse, Owner.SERVER)
async def InspectImage(
    call: Incoming, request: cryo_pb2.InspectImageRequest
) -> cryo_pb2.InspectImageResponse:
    """Return the manifest of an image."""
    manifest = await call.service.core.images.inspect(request.image_path)
    return cryo_pb2.InspectImageResponse(manifest_json=json.dumps(manifest))


def inspect(image_path: str) -> Call[dict[str, Any]]:
    """Return the manifest of an image."""
    request = cryo_pb2.InspectImageRequest(image_path=image_path)
    return InspectImage.call(request, lambda answer: _object(answer.manifest_json))


@CRYO.add(
    cryo_pb2.VerifyImageRequest,
    cryo_pb2.VerifyImageUpdate,
    Owner.SERVER,
    ENDLESS,
    streams=True,
)
async def VerifyImage(
    call: Incoming, request: cryo_pb2.VerifyImageRequest
) -> cryo_pb2.VerifyImageUpdate:
    """Check an image against its seal and this host."""
    manifest = await call.service.core.images.verify(
        request.image_path,
        cryo_messages.from_verify(request.mode),
        call.report,
        untrusted_folder=request.untrusted_folder,
    )
    return cryo_pb2.VerifyImageUpdate(manifest_json=json.dumps(manifest))


def verify(
    image_path: str, mode: Verify = Verify.FULL, *, untrusted_folder: bool = False
) -> Stream[dict[str, Any]]:
    """Check an image against its seal and this host; return its manifest.

    `untrusted_folder` accepts an image in a directory that another user can change.
    """
    request = cryo_pb2.VerifyImageRequest(
        image_path=image_path, mode=cryo_messages.to_verify(mode), untrusted_folder=untrusted_folder
    )
    return VerifyImage.stream(
        request, lambda update: _object(update.manifest_json), f"verification of {image_path}"
    )


@CRYO.add(cryo_pb2.RemoveImageRequest, cryo_pb2.RemoveImageResponse, Owner.SERVER, OWNER_S)
async def RemoveImage(
    call: Incoming, request: cryo_pb2.RemoveImageRequest
) -> cryo_pb2.RemoveImageResponse:
    """Delete an image."""
    await call.service.core.images.remove(request.image_path)
    return cryo_pb2.RemoveImageResponse()


def remove(image_path: str) -> Call[None]:
    """Delete an image below the sidecar's image directory."""
    request = cryo_pb2.RemoveImageRequest(image_path=image_path)
    return RemoveImage.call(request, lambda _answer: None)


@CRYO.add(cryo_pb2.ListNamesRequest, cryo_pb2.ListNamesResponse, Owner.SERVER)
async def ListNames(
    call: Incoming, request: cryo_pb2.ListNamesRequest
) -> cryo_pb2.ListNamesResponse:
    """List the names of images."""
    views = await call.service.core.names.list(check_id("namespace", call.namespace))
    return cryo_pb2.ListNamesResponse(names=[name_messages.to_name(view) for view in views])


def names(namespace: str = "") -> Call[list[NameView]]:
    """List the names of images in a namespace; the default is the client's namespace."""
    return ListNames.call(
        cryo_pb2.ListNamesRequest(namespace=namespace),
        lambda answer: [name_messages.from_name(name) for name in answer.names],
    )


@CRYO.add(cryo_pb2.ShowNameRequest, cryo_pb2.ShowNameResponse, Owner.SERVER)
async def ShowName(call: Incoming, request: cryo_pb2.ShowNameRequest) -> cryo_pb2.ShowNameResponse:
    """Describe a name."""
    view = await call.service.core.names.show(name_messages.ref_of(call.namespace, request))
    return cryo_pb2.ShowNameResponse(name=name_messages.to_name(view))


def show_name(
    name: str, namespace: str = "", *, kubernetes_namespace: str | None = None
) -> Call[NameView]:
    """Describe a name: its images, what their fingerprints were computed from, and its use."""
    request = cryo_pb2.ShowNameRequest(
        namespace=namespace, name=name, kubernetes_namespace=kubernetes_namespace
    )
    return ShowName.call(request, lambda answer: name_messages.from_name(answer.name))


@CRYO.add(cryo_pb2.DropNameRequest, cryo_pb2.DropNameResponse, Owner.SERVER, OWNER_S)
async def DropName(call: Incoming, request: cryo_pb2.DropNameRequest) -> cryo_pb2.DropNameResponse:
    """Delete the images of a name."""
    number = await call.service.core.names.drop(name_messages.ref_of(call.namespace, request))
    return cryo_pb2.DropNameResponse(images=number)


def drop_name(
    name: str, namespace: str = "", *, kubernetes_namespace: str | None = None
) -> Call[int]:
    """Delete the images and the counters of a name; return how many images there were."""
    request = cryo_pb2.DropNameRequest(
        namespace=namespace, name=name, kubernetes_namespace=kubernetes_namespace
    )
    return DropName.call(request, lambda answer: int(answer.images))


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


def _object(text: str) -> dict[str, Any]:
    value: dict[str, Any] = json.loads(text)
    return value
