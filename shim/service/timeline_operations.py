"""cryo.v1 on timelines: where the time of operations went, and what the host can do."""

from __future__ import annotations

from shim.api.cryo.v1 import cryo_pb2
from shim.model import Speeds, TaskRef, Timeline
from shim.service import timeline_messages
from shim.service.cryo_table import CRYO
from shim.service.operation import Call, Incoming, Owner


@CRYO.add(cryo_pb2.TaskTimelinesRequest, cryo_pb2.TimelinesResponse, in_shims=True)
async def TaskTimelines(
    call: Incoming, request: cryo_pb2.TaskTimelinesRequest
) -> cryo_pb2.TimelinesResponse:
    """Return the timelines of a task."""
    del request
    found = await call.service.core.timelines(call.ref)
    return cryo_pb2.TimelinesResponse(timelines=map(timeline_messages.to_timeline, found))


def timelines(ref: TaskRef) -> Call[list[Timeline]]:
    """Return where the time of the last operations on a task went, oldest first.

    A checkpoint of a pod is an operation on its sandbox, and on each of its containers.
    """
    return TaskTimelines.call(
        cryo_pb2.TaskTimelinesRequest(namespace=ref.namespace, id=ref.id),
        lambda answer: [timeline_messages.from_timeline(one) for one in answer.timelines],
    )


@CRYO.add(cryo_pb2.ImageTimelineRequest, cryo_pb2.TimelinesResponse, Owner.SERVER)
async def ImageTimeline(
    call: Incoming, request: cryo_pb2.ImageTimelineRequest
) -> cryo_pb2.TimelinesResponse:
    """Return the timeline of an image."""
    found = await call.service.core.images.timeline(request.image_path, call.namespace)
    return cryo_pb2.TimelinesResponse(timelines=[timeline_messages.to_timeline(found)])


def image_timeline(image: str, namespace: str = "") -> Call[Timeline]:
    """Return where the time of an image's checkpoint went, given its path or its name."""
    return ImageTimeline.call(
        cryo_pb2.ImageTimelineRequest(image_path=image, namespace=namespace),
        lambda answer: timeline_messages.from_timeline(answer.timelines[0]),
    )


@CRYO.add(cryo_pb2.MeasureSpeedsRequest, cryo_pb2.MeasureSpeedsResponse, Owner.SERVER)
async def MeasureSpeeds(
    call: Incoming, request: cryo_pb2.MeasureSpeedsRequest
) -> cryo_pb2.MeasureSpeedsResponse:
    """Measure disk and memory of the host."""
    found = await call.service.core.host_info.speeds(request.image_path)
    return timeline_messages.to_speeds(found)


def speeds(image_path: str = "") -> Call[Speeds]:
    """Measure disk and memory of the sidecar's host, which takes about a second.

    The disk is that of an image, or of the sidecar's folder of images.
    """
    return MeasureSpeeds.call(
        cryo_pb2.MeasureSpeedsRequest(image_path=image_path), timeline_messages.from_speeds
    )
