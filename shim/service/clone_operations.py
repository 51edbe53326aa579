"""cryo.v1: one image restored as several tasks."""

from __future__ import annotations

from collections.abc import Mapping
from uuid import uuid4

from shim.api.cryo.v1 import cryo_pb2
from shim.model import DEFAULT_NAMESPACE, Clone, CloneResult, RestoreOptions, TaskRef
from shim.service import clone_messages, cryo_messages
from shim.service.cryo_table import CRYO
from shim.service.operation import ENDLESS, Incoming, Owner, Stream


@CRYO.add(
    cryo_pb2.CloneImageRequest, cryo_pb2.CloneImageUpdate, Owner.SERVER, ENDLESS, streams=True
)
async def CloneImage(
    call: Incoming, request: cryo_pb2.CloneImageRequest
) -> cryo_pb2.CloneImageUpdate:
    """Restore an image as several tasks."""
    clones = [
        Clone(
            ref=TaskRef(namespace=one.namespace or call.namespace, id=one.id),
            options=cryo_messages.from_restore(one),
        )
        for one in request.clones
    ]
    service = call.service
    results = await service.core.clone(clones, request.at_once, service.admit, call.report)
    return cryo_pb2.CloneImageUpdate(result=clone_messages.to_results(results))


def clone(
    clones: Mapping[str, RestoreOptions], namespace: str = "", *, at_once: int = 0
) -> Stream[list[CloneResult]]:
    """Restore one image as several tasks, given by their ids, at most `at_once` at a time.

    The image is verified once. Each clone is complete or rolled back by itself, and its error
    is in its result. If interrupted (Ctrl-C, an error in `on_progress`), those that are not
    complete are rolled back before it returns.
    """
    token = uuid4().hex
    where = namespace or DEFAULT_NAMESPACE
    request = cryo_pb2.CloneImageRequest(
        clones=[
            cryo_messages.to_restore(TaskRef(namespace=where, id=name), options)
            for name, options in clones.items()
        ],
        at_once=at_once,
        operation=token,
    )
    return CloneImage.stream(
        request,
        lambda update: clone_messages.from_results(update.result),
        f"restore of {len(clones)} clones",
        token,
    )
