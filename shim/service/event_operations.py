"""cryo.v1: what happens, as it happens."""

from __future__ import annotations

from shim.api.containerd.types import event_pb2
from shim.api.cryo.v1 import cryo_pb2
from shim.errors import InvalidArgument
from shim.model import EventView, check_id, utcnow
from shim.service import event_views
from shim.service.cryo_table import CRYO
from shim.service.operation import ENDLESS, Feed, Incoming, Owner

FOLLOWING = "following"


@CRYO.add(
    cryo_pb2.FollowEventsRequest,
    cryo_pb2.EventInfo,
    Owner.SERVER,
    ENDLESS,
    streams=True,
    follows=True,
)
async def FollowEvents(call: Incoming, request: cryo_pb2.FollowEventsRequest) -> cryo_pb2.EventInfo:
    """Send the events that a client wants, until it ends the call."""
    hub, send = call.service.events, call.send
    if send is None:
        message = "this transport has no streams"
        raise InvalidArgument(message, remedy="use gRPC")
    for what, text in (("namespace", request.namespace), ("task id", request.id)):
        if text:
            check_id(what, text)

    def is_wanted(envelope: event_pb2.Envelope) -> bool:
        return request.namespace in {"", envelope.namespace}

    async with hub.reading(is_wanted) as reader:
        await send(event_views.to_info(_following(await hub.upstream_state())))
        while True:
            item = await reader.next()
            one = _following(item) if isinstance(item, str) else event_views.view(item)
            if one is not None and (request.id in {"", one.task} or one.kind == FOLLOWING):
                await send(event_views.to_info(one))


def follow(task: str = "", namespace: str = "", *, everywhere: bool = False) -> Feed[EventView]:
    """Yield what happens from now on: in a namespace or `everywhere`, of all tasks or of one.

    The first is of the kind `following`: what happens after it is yielded. Its field
    `containerd` says whether events of containerd's tasks are among them; it is yielded again
    when that changes.

    Raises:
        ResourceExhausted: events happen faster than they are read.
    """
    request = cryo_pb2.FollowEventsRequest(namespace="" if everywhere else namespace, id=task)
    return FollowEvents.feed(request, event_views.from_info)


def _following(containerd: str) -> EventView:
    return EventView(at=utcnow(), namespace="", kind=FOLLOWING, fields={"containerd": containerd})
